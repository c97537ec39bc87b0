"""What a run would make, before it starts: types, bytes, memory, disk, time, rounding error."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from rich.table import Table

from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.imatrix import for_model
from quantize.methods import METHODS
from quantize.methods.rtn import rtn
from quantize.pipeline import disk_bytes, weight_bytes
from quantize.plan import Assignment, Plan, assign, check_rules

SAMPLE = 64
"""Rows of a tensor that are rounded to know its error."""
BASE_BYTES = 450 << 20
"""Resident bytes of Python with torch, before any weight."""
COLUMN_SECONDS = 4e-4
"""Time of one column of GPTQ beside its products: most of it is starting small operations."""


@dataclass(frozen=True)
class TensorForecast:
    """One weight of one target."""

    name: str
    shape: tuple[int, int]
    type: str
    bytes: int
    error: float
    """Relative squared error of plain rounding, measured on a sample of the rows."""


@dataclass(frozen=True)
class TargetForecast:
    """One artifact."""

    target: str
    bytes: int
    bits_per_weight: float
    error: float
    """Relative squared error over all linears, plain rounding; calibrated methods end below it."""
    fallbacks: tuple[str, ...]
    tensors: tuple[TensorForecast, ...]


@dataclass(frozen=True)
class Forecast:
    """What `quantize plan` prints."""

    model: str
    weights: int
    method: str
    calibration_tokens: int
    memory: int
    """Bytes resident at most."""
    disk: int
    """Bytes on disk while running, artifacts included."""
    seconds: float
    """Calibration and rounding on this machine, from a short measurement; judging comes on top."""
    targets: tuple[TargetForecast, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def forecast(plan: Plan) -> Forecast:
    """Open the checkpoint, assign types, measure a few rows of each tensor. Writes nothing."""
    checkpoint = open_checkpoint(plan.model)
    check_rules(plan, checkpoint.arch)
    for_model(plan.imatrix, checkpoint.arch)
    assignments = [assign(target, checkpoint.arch, plan.rules) for target in plan.targets]
    calibrated = METHODS[plan.method].calibrated
    tokens = plan.rows * plan.length if calibrated else 0
    hidden = 4 * tokens * checkpoint.arch.hidden
    return Forecast(
        model=checkpoint.name,
        weights=sum(int(np.prod(shape)) for shape in checkpoint.tensors.shapes.values()),
        method=plan.method,
        calibration_tokens=tokens,
        memory=memory(checkpoint, plan, hidden),
        disk=disk_bytes(plan, checkpoint, assignments),
        seconds=seconds(checkpoint, tokens, len(assignments)),
        targets=tuple(target_forecast(checkpoint, a) for a in assignments),
    )


def memory(checkpoint: Checkpoint, plan: Plan, hidden: int) -> int:
    """Bytes resident at most: a layer (original, values, codes), its Hessians, the embedding."""
    shapes = checkpoint.family.layer_shapes(checkpoint.arch)
    layer = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    largest = max(4 * int(np.prod(shape)) for shape in shapes.values())
    stages = checkpoint.family.stages
    hessians = [4 * shapes[f"{s.linears[0]}.weight"][1] ** 2 for s in stages] if hidden else [0]
    # factoring a Hessian takes four more of its size; rounding comes after it, with one of them
    work = max(4 * max(hessians), max(hessians) + 8 * largest)
    embedding = 4 * checkpoint.arch.vocab * checkpoint.arch.hidden  # bf16 source and packed rows
    states = min(hidden, int(plan.max_ram * 2**30))
    walk = 2 * layer + sum(hessians) + work + states
    return BASE_BYTES + max(walk, embedding + 6 * (1 << 27))


def seconds(checkpoint: Checkpoint, tokens: int, targets: int) -> float:
    """Time of the products, the factorings and the column loops at this machine's speed."""
    side = torch.rand(1024, 1024)
    start = time.perf_counter()
    for _ in range(4):
        side @ side
    rate = 4 * 2 * 1024**3 / (time.perf_counter() - start)  # operations a second
    shapes = checkpoint.family.layer_shapes(checkpoint.arch)
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    widths = [shapes[f"{s.linears[0]}.weight"][1] for s in checkpoint.family.stages]
    work = 2 * 2 * tokens * sum(rows * cols for rows, cols in matrices)
    work += 2 * tokens * sum(width**2 for width in widths) + sum(2 * width**3 for width in widths)
    work += targets * sum(40 * 20 * rows * cols + rows * cols * cols for rows, cols in matrices)
    columns = targets * sum(cols for _, cols in matrices) * (1 if tokens else 0)
    return float(checkpoint.arch.layers * (work / rate + columns * COLUMN_SECONDS))


def target_forecast(checkpoint: Checkpoint, assignment: Assignment) -> TargetForecast:
    """Bytes and sampled rounding error of one artifact."""
    tensors = tuple(tensor_forecast(checkpoint, assignment, name) for name in assignment.types)
    total = weight_bytes(checkpoint, assignment)
    weights = sum(int(np.prod(shape)) for shape in checkpoint.tensors.shapes.values())
    cells = [float(np.prod(t.shape)) for t in tensors]
    return TargetForecast(
        target=assignment.target.label,
        bytes=total,
        bits_per_weight=8 * total / weights,
        error=float(np.average([t.error for t in tensors], weights=cells)),
        fallbacks=assignment.fallbacks,
        tensors=tensors,
    )


def tensor_forecast(checkpoint: Checkpoint, assignment: Assignment, name: str) -> TensorForecast:
    """Round evenly spaced rows of a tensor and compare."""
    block, tensor = assignment.types[name], checkpoint.tensors[name]
    rows = np.unique(np.linspace(0, tensor.shape[0] - 1, SAMPLE).astype(int))
    weight = torch.from_numpy(np.array(tensor.block.decode(tensor.data[rows])))
    error = (rtn(weight, block).value - weight).square().sum() / weight.square().sum().clamp(
        min=1e-30
    )
    shape = (tensor.shape[0], tensor.shape[1])
    size = round(shape[0] * shape[1] * block.bits / 8)
    return TensorForecast(name, shape, block.name, size, float(error))


def render(result: Forecast) -> RenderableType:
    """The forecast as a few lines and a table of types for each target."""
    head = Table(show_header=False, box=None)
    head.add_row("model", f"{result.model}, {result.weights:,} weights")
    head.add_row("method", f"{result.method}, {result.calibration_tokens:,} calibration tokens")
    head.add_row("memory", f"{result.memory / 2**30:.2f} GiB at most")
    head.add_row("disk", f"{result.disk / 2**20:,.1f} MiB while running")
    head.add_row("time", f"about {result.seconds:,.0f} s, judging not counted")
    parts: list[RenderableType] = [head]
    for target in result.targets:
        bits = f"{target.bits_per_weight:.2f} bits a weight"
        title = f"{target.target}: {target.bytes:,} bytes of weights, {bits}"
        table = Table(
            "tensors", "type", "bytes", "rounding error", title=title, title_justify="left"
        )
        for part, kind in dict.fromkeys((t.name.split(".")[-2], t.type) for t in target.tensors):
            chosen = [t for t in target.tensors if (t.name.split(".")[-2], t.type) == (part, kind)]
            size = sum(t.bytes for t in chosen)
            error = float(np.mean([t.error for t in chosen]))
            table.add_row(f"{len(chosen)} x {part}", kind, f"{size:,}", f"{error:.2e}")
        parts += [table, *target.fallbacks]
    return Group(*parts)
