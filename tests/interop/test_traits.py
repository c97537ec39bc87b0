"""What real checkpoints have: the artifact is what transformers computes, or is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

import edgequant
from runtime.errors import EdgequantError
from tests.traits import TRAITS, Trait

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

KL = {"gguf": 1e-4, "onnx": 1e-7}
"""llama.cpp keeps keys and values as float16."""

TARGETS = {"gguf": "gguf:F32", "onnx": "onnx:fp32"}


@pytest.mark.parametrize("container", TARGETS)
@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: trait.name)
def test_a_trait_is_kept_or_refused(trait: Trait, container: str, tmp_path: Path) -> None:
    folder = trait.make(tmp_path / "model")
    sentence = getattr(trait, container)
    settings: dict[str, Any] = {"output": tmp_path / "out", "method": "rtn", "check": False}
    if sentence:
        with pytest.raises(EdgequantError, match=re.escape(sentence)) as caught:
            edgequant.quantize(folder, TARGETS[container], **settings)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out/*"))
        return
    made = edgequant.quantize(folder, TARGETS[container], **settings).artifacts[0]
    found = edgequant.check(
        made.path, folder, backend="llamacpp", reference="transformers", eval_rows=3, eval_length=96
    )
    result = found.results[0]
    assert result.metrics.kl < KL[container], result.metrics
    assert not [note for note in result.notes if "end tokens" in note or "template" in note]
