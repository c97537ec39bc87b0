"""A run leaves exactly the bytes that its containers announce before the first tensor."""

from pathlib import Path
from typing import Any

import pytest

from export import CONTAINERS
from quantize.checkpoint import bundled, open_checkpoint
from quantize.plan import Plan, assign
from quantize.run import pipeline
from quantize.run.job import Job
from quantize.run.writing import provenance
from tests.conftest import CONFIGS
from tests.quantize.runs import small_plan

pytestmark = pytest.mark.slow

TARGETS = (
    "gguf:Q4_K_M",
    "gguf:IQ4_XS",
    "onnx:int4",
    "onnx:int4-128-sym",
    "onnx-f16:int4",
    "gptq:int4",
    "awq:int4",
)


def left(path: Path) -> int:
    """Bytes on disk of an artifact, a file or a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def announced(plan: Plan, digest: str) -> dict[str, int]:
    """Bytes of each target, by its label; `digest` is the calibration's sha256."""
    job, found = Job.resolve(plan), {}
    checkpoint = job.checkpoint
    for target in job.targets:
        assignment = assign(target, checkpoint.arch, job.rules)
        extra = provenance(job, assignment, digest)
        size = CONTAINERS[target.container].size
        found[target.label] = size(checkpoint.arch, assignment.types, checkpoint.folder, extra)
    return found


def made(plan: Plan) -> dict[str, int]:
    """Bytes of each target that a run of the plan left, by its label."""
    pipeline.run(plan)
    name = open_checkpoint(plan.model).name
    return {target.label: left(target.path(plan.output, name)) for target in plan.targets}


def rounded_plan(model: Path, output: Path, **changes: Any) -> Plan:
    """Every one of TARGETS by plain rounding, not judged."""
    return small_plan(model, *TARGETS, output=str(output), check=False, method="rtn", **changes)


@pytest.mark.parametrize("model", CONFIGS)
def test_a_run_leaves_the_bytes_announced(
    model: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = rounded_plan(random_models[model], tmp_path)
    assert made(plan) == announced(plan, digest="")


def test_rules_and_what_they_fell_back_to_are_counted(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    rules = ["attn_v=Q6_K", "ffn_down=INT8_64"]
    plan = rounded_plan(random_models["qwen2-tied"], tmp_path, rules=rules)
    assert made(plan) == announced(plan, digest="")


def test_the_checksum_of_calibration_text_is_counted(tmp_path: Path) -> None:
    plan = small_plan(
        bundled(), "gguf:Q4_K_M", "onnx:int4", output=str(tmp_path), check=False, rows=2
    )
    # any text's sha256 is as long as this one
    assert made(plan) == announced(plan, digest="0" * 64)
