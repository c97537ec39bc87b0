"""Disk space that a run takes, against what was said before it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantize.plan import EFFORTS
from quantize.run import pipeline
from quantize.run.forecast import forecast
from quantize.run.resume import Work
from quantize.run.way import WAYS, Way
from tests.quantize.runs import LEAST, ON_DISK, hold, small_plan


def most_bytes(folder: Path, plan: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a plan into a folder; the most bytes that lay there after any step."""
    seen = []

    def watch(step: str) -> None:
        real = getattr(Work, step)

        def watched(*args: Any, **info: Any) -> None:
            real(*args, **info)
            seen.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))

        monkeypatch.setattr(Work, step, watched)

    for step in ("save", "save_array", "finish"):
        watch(step)
    pipeline.run(replace(plan, output=folder, check=False))
    return max(seen)


def case(name: str, *targets: str, **flags: Any) -> Any:
    """What decides the most bytes, and a plan in which it does; calibration takes its time."""
    marks = () if name == "plain" else (pytest.mark.slow,)
    return pytest.param(targets, flags, id=name, marks=marks)


@pytest.mark.parametrize(
    ("targets", "flags"),
    [
        case("plain", "gguf:Q4_K_M", "onnx:int4", method="rtn"),
        case("artifacts", "onnx:int8", "gguf:Q4_0", rows=2),
        case("states", "gguf:Q4_0", "gguf:Q2_K", rows=100, way=ON_DISK),
        case("gradients", "gguf:Q4_0", rows=64, way=ON_DISK, effort="medium"),
        case("hessian", "gguf:Q4_0", rows=64, way=LEAST),
    ],
)
def test_a_run_takes_at_most_the_disk_forecast_and_nearly_that(
    targets: tuple[str, ...],
    flags: dict[str, Any],
    random_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold(monkeypatch, flags.get("way", WAYS[0]))
    flags = {name: value for name, value in flags.items() if name != "way"}
    plan = small_plan(random_models["qwen2-tied"], *targets, **flags)
    said = forecast(plan).disk
    taken = most_bytes(tmp_path, plan, monkeypatch)
    assert 0.96 * said < taken <= said


@pytest.mark.slow
@pytest.mark.parametrize("way", [ON_DISK, WAYS[0]])
def test_weights_of_tokens_and_tuned_copies_fit_in_the_disk_forecast(
    way: Way, random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "high", replace(EFFORTS["high"], steps=2))
    hold(monkeypatch, way)
    flags = {"rows": 24, "effort": "high"}
    plan = small_plan(random_models["llama-tied"], "onnx:int4", **flags)
    said = forecast(plan).disk
    assert 0.5 * said < most_bytes(tmp_path, plan, monkeypatch) <= said
