"""What a run would make, before it starts: types, bytes, memory, disk, time, rounding error.

For an automatic target also the frontier: calibration text and gradients are taken as in the run,
in a temporary folder.
"""

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from rich.table import Table

from export.clipping import too_large
from quantize.checkpoint import Checkpoint, check_tables
from quantize.methods.rtn import rtn
from quantize.plan import Assignment, Plan
from quantize.progress import Progress, silent
from quantize.report.judge import prepare_run
from quantize.run.cost import BASE_BYTES, Cost
from quantize.run.disk_usage import run_cost
from quantize.run.job import Job
from quantize.run.limited import limited
from quantize.run.pipeline import assign_all
from quantize.run.stored import weight_bytes
from quantize.run.writing import artifact_bytes
from quantize.scale.connect import check_spread

SAMPLE = 64
"""Rows of a tensor that are rounded to know its error."""
POINTS = 12
"""Lines of a frontier on the screen."""
LEAST_SHOWN = 1e-5
"""Predicted KL below which the screen shows one more point of a frontier and no others."""


@dataclass(frozen=True)
class TensorForecast:
    """One weight of one target."""

    name: str
    shape: tuple[int, int]
    type: str
    bytes: int
    error: float
    """Relative squared error of plain rounding, measured on a sample of the rows."""
    clipped: int
    """Values of the sample that are larger than the type can hold."""
    copied: bool = False
    """Whether it has this type in the source already and is not rounded again."""


@dataclass(frozen=True)
class TargetForecast:
    """One artifact."""

    target: str
    bytes: int
    """Of the whole artifact, exactly."""
    weight_bytes: int
    """Of its tensors."""
    bits_per_weight: float
    """Of its tensors."""
    error: float
    """Relative squared error over all linears, plain rounding; calibrated methods end below it."""
    fallbacks: tuple[str, ...]
    tensors: tuple[TensorForecast, ...]
    predicted_kl: float | None
    """Nats a token, of an automatic target."""
    frontier: tuple[tuple[int, float], ...]
    """Bytes and predicted KL of an automatic target's other sizes (see plan.Allocation)."""


@dataclass(frozen=True)
class Forecast:
    """What `quantize plan` prints."""

    model: str
    weights: int
    method: str
    calibration_tokens: int
    image_rows: int
    """Calibration windows of images with captions."""
    memory: int
    """Bytes resident at most."""
    disk: int
    """Bytes on disk while running, artifacts included."""
    seconds: float
    """Calibration and rounding on this machine, from a short measurement; judging comes on top."""
    targets: tuple[TargetForecast, ...]
    notes: tuple[str, ...]
    """What was read otherwise than the checkpoint's files say at first sight, here or by readers of
    the artifacts."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def forecast(plan: Plan, progress: Progress = silent) -> Forecast:
    """Open the checkpoint and all that a run would read, assign types, round a few rows of each.

    Writes nothing in the output folder. Errors as in `pipeline.run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = limited(Job.resolve(plan, progress, Path(folder)))
        check_tables(job.checkpoint)
        check_spread(plan, job)
        if plan.check:
            prepare_run(plan, job)
        job = limited(assign_all(job))
    checkpoint, sizes = job.checkpoint, artifact_bytes(job)
    cost = run_cost(job, sizes)
    return Forecast(
        model=checkpoint.name,
        weights=count(checkpoint),
        method=job.recipe.method.name,
        calibration_tokens=job.calibration.tokens if job.recipe.method.calibrated else 0,
        image_rows=job.calibration.image_rows,
        memory=BASE_BYTES + cost.memory,
        disk=cost.disk,
        seconds=seconds_of(cost),
        targets=tuple(
            target_forecast(checkpoint, assignment, size)
            for assignment, size in zip(job.assignments, sizes, strict=True)
        ),
        notes=(
            *checkpoint.notes,
            *job.kept.notes(),
            *job.reader_lines,
            *job.calibration.image_notes,
        ),
    )


def seconds_of(cost: Cost) -> float:
    """Time of a cost, at the speed of products on this machine."""
    side = torch.rand(1024, 1024)
    start = time.perf_counter()
    for _ in range(4):
        side @ side
    rate = 4 * 2 * 1024**3 / (time.perf_counter() - start)  # operations a second
    return cost.flops / rate + cost.seconds


def count(checkpoint: Checkpoint) -> int:
    """Number of weights, norms and biases included."""
    return sum(math.prod(shape) for shape in checkpoint.tensors.shapes.values())


def target_forecast(checkpoint: Checkpoint, assignment: Assignment, size: int) -> TargetForecast:
    """What is known of an artifact of `size` bytes, and its sampled rounding error."""
    tensors = tuple(tensor_forecast(checkpoint, assignment, name) for name in assignment.types)
    weights = weight_bytes(checkpoint, assignment)
    cells = [float(math.prod(t.shape)) for t in tensors]
    known = assignment.allocation
    return TargetForecast(
        target=assignment.target.label,
        bytes=size,
        weight_bytes=weights,
        bits_per_weight=8 * weights / count(checkpoint),
        error=float(np.average([t.error for t in tensors], weights=cells)),
        fallbacks=assignment.fallbacks,
        tensors=tensors,
        predicted_kl=known.kl if known else None,
        frontier=known.frontier if known else (),
    )


def tensor_forecast(checkpoint: Checkpoint, assignment: Assignment, name: str) -> TensorForecast:
    """Round evenly spaced rows of a tensor and compare."""
    qtype, tensor = assignment.types[name], checkpoint.tensors[name]
    copied = name in assignment.copied
    rows = np.unique(np.linspace(0, tensor.rows - 1, SAMPLE).astype(int))
    weight = torch.from_numpy(np.array(tensor.unpacked(rows)))
    value = weight if copied else rtn(weight, qtype).value
    error = (value - weight).square().sum() / weight.square().sum().clamp(min=1e-30)
    clipped = too_large(weight.abs().numpy(), value.abs().numpy()).sum()
    shape = (tensor.rows, tensor.cols)
    size = round(shape[0] * shape[1] * qtype.bits / 8)
    return TensorForecast(name, shape, qtype.name, size, float(error), int(clipped), copied)


def render(result: Forecast) -> RenderableType:
    """The forecast as a few lines and a table of types for each target."""
    head = Table(show_header=False, box=None)
    head.add_row("model", f"{result.model}, {result.weights:,} weights")
    head.add_row("method", f"{result.method}, {result.calibration_tokens:,} calibration tokens")
    head.add_row("memory", f"{result.memory / 2**30:.2f} GiB at most")
    head.add_row("disk", f"{result.disk / 2**20:,.1f} MiB while running")
    head.add_row("time", f"about {result.seconds:,.0f} s, judging not counted")
    parts: list[RenderableType] = [head, *result.notes]
    for target in result.targets:
        parts += [types_table(target), *target.fallbacks]
        parts += [
            f"{t.name}: {t.type} cannot hold {t.clipped} values of the rows that were looked at; "
            "use BF16 or F32 for it (--rule)"
            for t in target.tensors
            if t.clipped
        ]
        if target.frontier:
            parts.append(frontier_table(target))
    return Group(*parts)


def types_table(target: TargetForecast) -> Table:
    """Types and bytes of each group of tensors."""
    title = f"{target.target}: {target.bytes:,} bytes, {target.bits_per_weight:.2f} bits a weight"
    if target.predicted_kl is not None:
        title += f", predicted KL {target.predicted_kl:.5f}"
    table = Table("tensors", "type", "bytes", "rounding error", title=title, title_justify="left")
    kinds: dict[tuple[str, str, bool], list[TensorForecast]] = {}
    for tensor in target.tensors:
        part = tensor.name.split(".")[-2]
        kinds.setdefault((part, tensor.type, tensor.copied), []).append(tensor)
    parts = list(dict.fromkeys(part for part, _, _ in kinds))
    for (part, kind, copied), chosen in sorted(kinds.items(), key=lambda k: parts.index(k[0][0])):
        size = sum(t.bytes for t in chosen)
        error = "copied" if copied else f"{np.mean([t.error for t in chosen]):.2e}"
        table.add_row(f"{len(chosen)} x {part}", kind, f"{size:,}", error)
    return table


def frontier_table(target: TargetForecast) -> Table:
    """Bytes against predicted KL, the chosen set of types marked."""
    title = f"{target.target}: sizes and the least predicted KL"
    table = Table("bytes", "predicted KL", "", title=title, title_justify="left")
    here = (target.bytes, target.predicted_kl or 0.0)
    others = [point for point in spread(target.frontier) if point[0] != here[0]]
    for point in sorted([here, *others]):
        mark = "<- chosen" if point == here else ""
        table.add_row(f"{point[0]:,}", f"{point[1]:.2g}", mark)
    return table


def spread(points: tuple[tuple[int, float], ...]) -> list[tuple[int, float]]:
    """About POINTS of a frontier, from the smallest size on, at even distances in log KL."""
    least = max(LEAST_SHOWN, min((kl for _, kl in points if kl > 0), default=LEAST_SHOWN))
    levels = np.geomspace(max(points[0][1], least), least, POINTS)
    nearest = [
        next((p for p in points if p[1] <= level * (1 + 1e-9)), points[-1]) for level in levels
    ]
    return list(dict.fromkeys(nearest))
