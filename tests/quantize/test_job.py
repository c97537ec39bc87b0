"""A plan is resolved once: what it names is read, looked up and checked before any work."""

from pathlib import Path
from typing import Any

import pytest

from quantize.calibration import imatrix
from quantize.calibration.make_imatrix import ImatrixRequest, make
from quantize.checkpoint import open_checkpoint
from quantize.plan import EFFORTS
from quantize.run import pipeline
from quantize.run.job import Job
from runtime.errors import EdgequantError
from tests.quantize.runs import small_plan


def test_a_run_reads_the_fingerprint_and_the_imatrix_once(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = random_models["qwen2-tied"], tmp_path / "a.gguf"
    make(ImatrixRequest(path, str(model), rows=2, length=64))
    calls = []

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(owner, name, counted)

    count(type(open_checkpoint(model)), "fingerprint")
    count(imatrix, "read")
    flags = {"imatrix": str(path), "eval_rows": 1, "eval_length": 64}
    plan = small_plan(model, "gguf:Q8_0", "gguf:Q4_0", output=str(tmp_path / "out"), **flags)
    assert pipeline.run(plan) is not None
    assert sorted(calls) == ["fingerprint", "read"]


@pytest.mark.parametrize(
    ("flags", "windows"),
    [
        ({"effort": "low"}, 0),
        ({"effort": "medium", "rows": 100}, EFFORTS["medium"].windows),
        ({"effort": "medium", "rows": 3}, 3),
        ({"effort": "high", "rows": 100}, 100),
        ({"effort": "high", "rows": 100, "method": "rtn"}, 0),
        ({"effort": "low", "rows": 100, "to": ["gguf:auto"], "target_bpw": 5.0}, 16),
    ],
)
def test_gradients_are_taken_of_as_many_windows_as_the_effort_and_the_targets_need(
    flags: dict[str, Any], windows: int, random_models: dict[str, Path]
) -> None:
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", **flags)
    assert Job.resolve(plan).calibration.windows == windows


def test_resolving_writes_nothing_and_refuses_what_cannot_be_done(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    model, output = random_models["qwen2-tied"], tmp_path / "out"
    plan = small_plan(model, "onnx:int4", output=str(output))
    assert Job.resolve(plan).store.folder == output / ".edgequant"
    with pytest.raises(EdgequantError, match="device 'abacus' cannot be used"):
        Job.resolve(small_plan(model, "onnx:int4", output=str(output), device="abacus"))
    with pytest.raises(EdgequantError, match="matches no tensor"):
        Job.resolve(small_plan(model, "onnx:int4", output=str(output), rules=["attn_w=INT8_32"]))
    assert not output.exists()
