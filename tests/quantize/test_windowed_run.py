"""A model with windows through a whole run, calibrated and judged far past the window."""

from pathlib import Path

import pytest

import edgequant
from tests.windowed import checkpoint_of

pytestmark = [pytest.mark.slow, pytest.mark.numeric]


def test_calibration_sees_what_the_engines_see(tmp_path: Path) -> None:
    model = checkpoint_of("qwen2", tmp_path / "model", sliding_window=32)
    kl = {}
    for method in ("rtn", "gptq"):
        made = edgequant.quantize(
            model,
            "onnx:int4",
            tmp_path / method,
            method=method,
            effort="high",  # gradients and tuning pass the windows as well
            rows=8,
            length=128,
            eval_rows=4,
            eval_length=128,
        )
        assert made.report
        (result,) = made.report.results
        kl[method] = [place.kl for place in result.positions]
    assert len(kl["gptq"]) == 6
    assert all(ours < 0.8 * plain for ours, plain in zip(kl["gptq"], kl["rtn"], strict=True))
