"""Every released model in llama.cpp and onnxruntime: what transformers computes, or refused."""

import re
from pathlib import Path
from typing import Any

import pytest

import edgequant
from runtime.errors import EdgequantError
from tests.releases import RELEASES, Release

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

TARGETS = {"gguf": ("gguf:F32", "gguf:Q8_0"), "onnx": ("onnx:fp32", "onnx:int8")}
KL = {"gguf": 1e-4, "onnx": 1e-7}
"""Of floats. llama.cpp keeps keys and values as float16: with key biases of norm 900 that shows."""


@pytest.mark.parametrize("container", TARGETS)
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_runs_or_is_refused(release: Release, container: str, tmp_path: Path) -> None:
    folder = release.make(tmp_path / "model")
    settings: dict[str, Any] = {"output": tmp_path / "out", "method": "rtn", "check": False}
    if sentence := getattr(release, container):
        with pytest.raises(EdgequantError, match=re.escape(sentence)):
            edgequant.quantize(folder, TARGETS[container], **settings)
        assert not list(tmp_path.glob("out/*"))
        return
    made = edgequant.quantize(folder, TARGETS[container], **settings).artifacts
    found = edgequant.check(
        [artifact.path for artifact in made],
        folder,
        backend="llamacpp",
        reference="transformers",
        eval_rows=2,
        eval_length=64,
    )
    floats, rounded = (result.metrics for result in found.results)
    assert floats.kl < KL[container], floats
    assert floats.kl < rounded.kl, rounded
