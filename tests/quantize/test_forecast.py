"""A forecast says what the run then does."""

import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from bench.memory import MODELS, RUNS
from quantize.calibration.sensitivity import statistics_cost
from quantize.checkpoint import open_checkpoint
from quantize.methods.rtn import rtn
from quantize.plan import Plan, Target, assign
from quantize.run.cost import BASE_BYTES, Cost, in_turn
from quantize.run.disk_usage import run_cost
from quantize.run.forecast import (
    LEAST_SHOWN,
    POINTS,
    Forecast,
    forecast,
    render,
    spread,
)
from quantize.run.job import Job
from quantize.run.pipeline import artifacts, run
from quantize.run.walk_cost import walk_cost
from quantize.run.way import WAYS
from runtime.archs import family_of
from runtime.quant_types import QUANT_TYPES
from tests.conftest import config
from tests.quantize.runs import ON_DISK, assigned, small_plan, walk

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(random_models: dict[str, Path]) -> Forecast:
    plan = small_plan(
        random_models["qwen2-untied"], "onnx:int4", "onnx:int4-128", rules=["attn_[qk]=INT8_32"]
    )
    return forecast(plan)


@pytest.mark.parametrize("method", ["rtn", pytest.param("gptq", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", ["onnx:int4-128", "onnx:fp32", "gguf:Q4_K_M", "gguf:F16"])
def test_bytes_are_exactly_those_of_the_written_artifact(
    target: str, method: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(
        random_models["qwen2-untied"], target, method=method, check=False, output=str(tmp_path)
    )
    run(plan)
    assert forecast(plan).targets[0].bytes == artifacts(plan)[0]["bytes"]


def test_bytes_of_weights_are_exactly_those_of_a_gguf_file(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-untied"], "gguf:Q4_K_M", "gguf:Q8_0", method="rtn")
    made = walk(plan, tmp_path / "work")
    for target, expected in enumerate(forecast(plan).targets):
        tensors = made.tensors(target)
        assert expected.weight_bytes == sum(t.nbytes for t in tensors.values())
        for part in expected.tensors:
            assert part.type == tensors[part.name].qtype.name
            assert part.bytes == tensors[part.name].nbytes


def test_errors_are_those_of_plain_rounding(
    random_models: dict[str, Path], found: Forecast
) -> None:
    # a key projection has 32 rows, fewer than the sample, so all of them were rounded
    weight = open_checkpoint(random_models["qwen2-untied"]).tensors["blk.0.attn_v.weight"].decode()
    rounded = rtn(torch.from_numpy(weight), QUANT_TYPES["INT4_32"]).value.numpy()
    error = ((rounded - weight) ** 2).sum() / (weight**2).sum()
    part = next(t for t in found.targets[0].tensors if t.name == "blk.0.attn_v.weight")
    assert part.error == pytest.approx(float(error), rel=1e-5)
    assert all(0 < t.error < 0.02 for t in found.targets[0].tensors)
    mean = np.average(
        [t.error for t in found.targets[0].tensors],
        weights=[np.prod(t.shape) for t in found.targets[0].tensors],
    )
    assert found.targets[0].error == pytest.approx(mean)


def test_an_uncalibrated_method_needs_no_tokens_and_less_disk(
    random_models: dict[str, Path],
) -> None:
    plain, calibrated = (
        forecast(small_plan(random_models["llama-tied"], "onnx:int4", method=method, rows=200_000))
        for method in ("rtn", "gptq")
    )
    assert (calibrated.calibration_tokens, plain.calibration_tokens) == (200_000 * 64, 0)
    # ids, and the states after a layer and after the one before; 8 GiB of memory hold the others
    assert calibrated.disk > plain.disk + 4 * 200_000 * 64 * (1 + 2 * 96 - 1)
    assert plain.memory < calibrated.memory
    assert 0 < plain.seconds < calibrated.seconds


def test_the_screen_shows_types_totals_and_fallbacks(found: Forecast) -> None:
    out = io.StringIO()
    Console(width=120, markup=False, file=out).print(render(found))
    text = out.getvalue()
    assert "4 x attn_q" not in text
    for shown in ("2 x attn_q", "INT8_32", "256 calibration tokens", "cannot be INT4_128"):
        assert shown in text
    for target in found.targets:
        assert f"{target.bytes:,} bytes, {target.bits_per_weight:.2f} bits a weight" in text
        assert "predicted KL" not in text


def test_json_holds_every_tensor(found: Forecast) -> None:
    values = json.loads(json.dumps(found.to_json()))
    assert len(values["targets"][0]["tensors"]) == 2 * 7 + 2


def test_steps_state_the_hidden_states_that_they_keep(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    model = random_models["llama-tied"]
    layers, row = open_checkpoint(model).arch.layers, 4 * 64 * 96

    def states(effort: str, rows: int, *to: str) -> tuple[int, int]:
        """Bytes on disk for gradients, and of one walk, with no memory for states."""
        job = assigned(small_plan(model, *to, effort=effort, rows=rows), tmp_path)
        job = replace(job, way=ON_DISK)
        found = statistics_cost(job), walk_cost(job, job.groups[0])
        gradients, walk = (cost.disk - cost.kept for cost in found)
        assert walk % 3 == 0  # those behind the last layer and this one, and those on their way
        return gradients, walk // 3

    assert states("low", 20, "onnx:int4") == (0, 20 * row)
    two = ("onnx:int4", "onnx:int8")
    assert states("medium", 20, *two) == ((layers + 1) * 8 * row, 20 * row)
    # a target alone also keeps the states of the original
    assert states("high", 20, "onnx:int4") == ((layers + 1) * 20 * row, 2 * 20 * row)


def test_states_in_memory_are_not_on_disk(random_models: dict[str, Path], tmp_path: Path) -> None:
    plan = small_plan(random_models["llama-tied"], "onnx:int4", rows=400)
    job, states = assigned(plan, tmp_path), 4 * 400 * 64 * 96
    memory, disk = (run_cost(replace(job, way=way), [0]) for way in (WAYS[0], ON_DISK))
    assert disk.disk - memory.disk == states
    assert memory.memory - disk.memory == states
    assert (disk.flops, disk.seconds) == (memory.flops, memory.seconds)


def test_steps_in_turn_share_memory_and_add_up_files_and_time() -> None:
    first = Cost(memory=5, disk=10, kept=4, flops=1.0, seconds=2.0)
    second = Cost(memory=7, disk=3, kept=3, flops=10.0, seconds=20.0)
    both = Cost(memory=7, disk=10, kept=7, flops=11.0, seconds=22.0)
    assert in_turn([first, second]) == both
    assert in_turn([second, first]) == replace(both, disk=13)
    assert in_turn([]) == Cost()


MEASURED: dict[str, dict[str, Any]] = {
    "0.5B": {},
    "1.5B-2": {},
    "1.5B-4": {},
    "0.5B-300MiB": {"effort": "medium", "auto": True},
    "57B-A14B-1": {"effort": "medium"},
}
"""How the models of bench/memory.py were quantized."""


@dataclass(frozen=True)
class Shapes:
    """Tensors in bfloat16 of which nothing is known but their shapes."""

    shapes: dict[str, tuple[int, ...]]

    def nbytes(self, name: str) -> int:
        return 2 * math.prod(self.shapes[name])


@pytest.mark.parametrize("name", MEASURED)
def test_memory_is_within_a_quarter_of_what_was_measured(name: str) -> None:
    shape, flags = MODELS[RUNS[name][0]], MEASURED[name]
    facts = config("qwen2-tied", **shape)
    arch = family_of(facts).arch(facts)
    stored: Any = SimpleNamespace(arch=arch, tensors=Shapes(arch.shapes()))
    to = {"to": ["gguf:auto"], "target_size": "300MiB"} if flags.get("auto") else {}
    plan = Plan.from_flags(
        None,
        {"to": ["gguf:Q4_K_M"], "rows": 8, "length": 512, "effort": flags.get("effort", "low")}
        | to,
    )
    job = replace(Job.resolve(plan), checkpoint=stored)
    job = job.assigned([assign(Target("gguf", "Q4_K_M"), arch, ())])
    tables = [ROOT / "bench" / "results" / f"{name}.json" for name in ("memory", "memory_experts")]
    rows = [row for table in tables for row in json.loads(table.read_text())["rows"]]
    row = next(row for row in rows if row["model"] == name)
    said = BASE_BYTES + run_cost(job, [row["artifact_bytes"]]).memory
    assert 0.75 < said / row["peak_bytes"] < 1.25


@pytest.fixture(scope="module")
def automatic(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    output = tmp_path_factory.mktemp("unwritten") / "out"
    plan = small_plan(
        random_models["qwen2-tied"], "gguf:auto", target_size="600kB", output=str(output)
    )
    found = forecast(plan)
    assert not output.exists()
    return found


def test_an_automatic_target_shows_its_frontier_and_what_was_chosen(automatic: Forecast) -> None:
    target = automatic.targets[0]
    assert target.predicted_kl is not None
    out = io.StringIO()
    Console(width=120, markup=False, file=out).print(render(automatic))
    lines = out.getvalue().splitlines()
    assert f"{target.bytes:,} bytes" in out.getvalue()
    assert f"predicted KL {target.predicted_kl:.5f}" in out.getvalue()
    marked = [line for line in lines if "<- chosen" in line]
    assert len(marked) == 1
    assert f"{target.bytes:,}" in marked[0]
    sizes = [f"{size:,}" for size, _ in spread(target.frontier)]
    shown = [size for size in sizes if any(f" {size} " in line for line in lines)]
    assert len(shown) >= len(sizes) - 1  # the chosen one may stand for a point of its size


@pytest.mark.slow
def test_an_automatic_target_has_the_bytes_of_its_artifact(
    automatic: Forecast, random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(
        random_models["qwen2-tied"],
        "gguf:auto",
        target_size="600kB",
        output=str(tmp_path),
        check=False,
    )
    run(plan)
    assert artifacts(plan)[0]["bytes"] == automatic.targets[0].bytes <= 600_000


def test_json_holds_every_point_of_the_frontier(automatic: Forecast) -> None:
    target = json.loads(json.dumps(automatic.to_json()))["targets"][0]
    sizes, losses = zip(*target["frontier"], strict=True)
    assert len(sizes) > POINTS
    assert list(sizes) == sorted(set(sizes))
    assert list(losses) == sorted(set(losses), reverse=True)
    assert sizes[0] <= target["bytes"] <= sizes[-1]
    assert losses[-1] <= target["predicted_kl"] <= losses[0]


def test_points_on_the_screen_are_evenly_spread_in_log_kl() -> None:
    points = tuple((1000 + at, 0.5 * 0.9**at) for at in range(200)) + ((2000, 0.0),)
    shown = spread(points)
    assert len(shown) == POINTS
    assert shown[0] == points[0]
    steps = np.diff(np.log([kl for _, kl in shown]))
    np.testing.assert_allclose(steps, steps.mean(), atol=0.11)
    assert 0.9 * LEAST_SHOWN <= shown[-1][1] <= LEAST_SHOWN
    assert spread(((10, 0.0),)) == [(10, 0.0)]
    assert spread(((10, 3.0), (20, 1.0))) == [(10, 3.0), (20, 1.0)]
