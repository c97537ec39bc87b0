"""Calibration earns its time on the bundled model: measured on written files, in real engines."""

from pathlib import Path

import pytest

from bench.methods import TYPES, make, measure
from quantize.checkpoint import Checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_gptq_is_far_closer_to_the_original_than_rounding(
    kind: str, tiny: Checkpoint, tmp_path: Path
) -> None:
    made = [make(kind, method, 16, tmp_path) for method in ("rtn", "gptq")]
    assert made[0].bytes == pytest.approx(made[1].bytes, abs=4096)  # the provenance differs
    rows = {row["method"]: row["kl"] for row in measure(tiny, made, windows=8)}
    assert rows["gptq"] <= 0.7 * rows["rtn"]
