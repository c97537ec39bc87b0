"""From one format to another without a second rounding, where the target's grids hold the weights.

Each weight gets the smallest type of the container that holds every one of its numbers, be it its
own or one on whose grid it lies (quantize/run/copied.py). One that no such type holds is rounded to
nearest in 8 bits, or as many as the container has, and told.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export import CONTAINERS, Container
from export.mixture import Preset
from quantize.checkpoint import open_checkpoint
from quantize.lattice import as_stored
from quantize.plan import Plan, Rule, Target, matrix_widths
from quantize.progress import Progress, silent
from quantize.run import act_order, pipeline
from quantize.run.copied import Kept
from runtime.checkpoint import Checkpoint
from runtime.errors import InputError, UnsupportedError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor

ROUNDED_BITS = 8
"""Codes of a weight that has to be rounded."""
CHUNK = 1 << 22
"""Weights compared at a time."""


@dataclass(frozen=True)
class Converted:
    """What became of one weight."""

    name: str
    source: str
    """Its type before."""
    type: str
    exact: bool
    """Whether its numbers are the source's: those of a grid, where the source rounded them to store
    them."""
    difference: float
    """The largest of a weight; of an exact one that by which its source had rounded the grid."""

    def line(self) -> str:
        """As it is printed."""
        far = f"by {self.difference:.3g} at most"
        how = "exact" if self.exact else f"rounded, {far}"
        if self.exact and self.difference:
            how = f"exact: {self.source} had rounded its grid, {far}"
        return f"{self.name}: {self.source} to {self.type}, {how}"


@dataclass(frozen=True)
class Conversion:
    """A written artifact, weight by weight."""

    path: Path
    bytes: int
    weights: tuple[Converted, ...]
    notes: tuple[str, ...] = ()
    """What a user should know, of those who do not `say` it."""

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        told = [vars(weight) for weight in self.weights]
        return {"path": str(self.path), "bytes": self.bytes, "weights": told}


def convert(
    source: str | Path | None,
    container: str,
    output: Path,
    *,
    exact: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    say: pipeline.Say = lambda line: None,
) -> Conversion:
    """Write `source` (a folder, hub id or GGUF file) in a container, such as "onnx", into `output`.

    Raises EdgequantError, before anything is written, for an unknown container, and with `exact`
    where a weight would have to be rounded.
    """
    check_container(container)
    opened = open_checkpoint(source)
    CONTAINERS[container].refuse(opened.arch)
    checkpoint = act_order.absorbed_for(opened, [CONTAINERS[container]])
    kept = Kept(checkpoint.tensors)
    types = types_of(checkpoint, kept, CONTAINERS[container], progress)
    if exact:
        refuse_rounding(kept, types, CONTAINERS[container])
    if CONTAINERS[container].table_type:
        refuse_floats(types, CONTAINERS[container], opened.name)
    target, rules = described(checkpoint, CONTAINERS[container], types)
    plan = Plan(
        targets=(target,),
        model=None if source is None else str(source),
        output=output,
        method="rtn",
        rules=rules,
        overwrite=overwrite,
        check=False,
    )
    pipeline.run(plan, progress, say)
    (made,) = pipeline.artifacts(plan)
    path = Path(made["path"])
    written = CONTAINERS[container].reader.open(path).tensors
    weights = [compared(checkpoint.tensors[name], written[name]) for name in types]
    return Conversion(path, made["bytes"], tuple(weights))


def check_container(container: str) -> None:
    """Raise InputError for a word that names no container."""
    name, _, preset = container.partition(":")
    if preset and name in CONTAINERS:
        raise InputError(
            f"convert takes a container alone, as --to {name}: each weight's type is that of its "
            f"codes; for the mixture {preset} use `quantize run --to {container}`."
        )
    if container not in CONTAINERS:
        raise InputError(
            f"unknown container {container!r} in --to; known: {', '.join(CONTAINERS)}."
        )


def types_of(
    checkpoint: Checkpoint, kept: Kept, container: Container, progress: Progress = silent
) -> dict[str, QuantType]:
    """The type of every weight that may be rounded: the smallest exact one, else one of 8 bits."""
    found: dict[str, QuantType] = {}
    held = [q for q in QUANT_TYPES.values() if container.holds(q) and not q.is_float]
    held.sort(key=lambda qtype: qtype.bits)
    names = list(matrix_widths(checkpoint.arch))

    def chosen(name: str, held: list[QuantType]) -> QuantType:
        tried = held if name.startswith("blk.") or not container.table_type else []
        exact = (qtype for qtype in tried if keeps(kept, name, qtype, container))
        return next(exact, None) or other_type(checkpoint, container, name, held)

    for number, name in enumerate(names):
        progress("looking for grids", number, len(names), name)
        found[name] = chosen(name, held)
    sizes = {qtype.size for qtype in found.values() if not qtype.is_float}
    if container.uniform and len(sizes) > 1:  # codes of a group lie on the grids of its parts
        held = [qtype for qtype in held if qtype.size == min(sizes)]
        found = {n: q if q.is_float else chosen(n, held) for n, q in found.items()}
    progress("looking for grids", len(names), len(names), "")
    return found


def keeps(kept: Kept, name: str, qtype: QuantType, container: Container) -> bool:
    """Whether a type holds every number of a weight, as codes that the container can store."""
    return kept.holds(name, qtype) and not kept.refused_by(container, name, qtype)


def other_type(
    checkpoint: Checkpoint, container: Container, name: str, held: list[QuantType]
) -> QuantType:
    """The type of a weight on no grid: a float one for what is stored in floats, else one of 8
    bits, or the widest of `held`."""
    source, cols = checkpoint.tensors.qtype(name), checkpoint.tensors.shapes[name][-1]
    floats = [QUANT_TYPES[n] for n in (source.name, "F32", "F16") if QUANT_TYPES[n].is_float]
    float_types = [qtype for qtype in floats if container.holds(qtype)]
    table = bool(container.table_type) and not name.startswith("blk.")
    if source.is_float and float_types or table:
        return float_types[0]
    packed = [qtype for qtype in held if qtype.fits(cols)]
    wide = [q for q in packed if math.log2(q.high - q.low + 2) >= ROUNDED_BITS]
    return max(wide or packed, key=lambda qtype: qtype.bits) if packed else float_types[0]


def refuse_floats(types: dict[str, QuantType], container: Container, model: str) -> None:
    """Raise InputError where no linear would be packed, in a container of packed linears."""
    if all(qtype.is_float for name, qtype in types.items() if name.startswith("blk.")):
        preset = next(iter(container.presets))
        raise InputError(
            f"no linear of {model} lies on a grid of {container.name}, so there are no codes to "
            f"keep; round them with `quantize run --to {container.name}:{preset}`."
        )


def refuse_rounding(kept: Kept, types: dict[str, QuantType], container: Container) -> None:
    """Raise UnsupportedError where a weight would be rounded."""
    rounded = [
        name
        for name, qtype in types.items()
        if not (wider(kept, name, qtype) or keeps(kept, name, qtype, container))
    ]
    if rounded:
        raise UnsupportedError(
            f"{len(rounded)} of {len(types)} weights lie on no grid of {container.name}, the first "
            f"is {rounded[0]} ({kept.tensors.qtype(rounded[0]).name}); leave out --exact to "
            "round them, or choose another container."
        )


def wider(kept: Kept, name: str, qtype: QuantType) -> bool:
    """Whether a float type holds all numbers of a weight's own float type."""
    return qtype.name in (kept.tensors.qtype(name).name, "F32")


def described(
    checkpoint: Checkpoint, container: Container, types: dict[str, QuantType]
) -> tuple[Target, tuple[Rule, ...]]:
    """The preset whose types are most like these, and a rule for each type of the others."""
    arch = checkpoint.arch

    def others(preset: Preset) -> dict[str, QuantType]:
        return {n: q for n, q in types.items() if preset.choose(arch, n) != q.name}

    def unlike(name: str) -> int:
        preset = container.presets[name]
        return sum(preset.choose(arch, n) != q.unordered.name for n, q in types.items())

    name = min(container.presets, key=unlike)
    left = others(container.presets[name])
    rules = [
        Rule(f"^({'|'.join(re.escape(n) for n, q in left.items() if q.name == kind)})$", kind)
        for kind in Counter(q.name for q in left.values())
    ]
    return Target(container.name, name), tuple(rules)


def compared(source: Tensor, written: Tensor) -> Converted:
    """How far a weight moved."""
    step = max(1, CHUNK // source.cols)
    largest, same = 0.0, True
    for start in range(0, source.rows, step):
        before, after = (t.decode(start, start + step) for t in (source, written))
        largest = max(largest, float(np.abs(after - before).max(initial=0)))
        # a source stored in bf16 or float16 rounded what lay on the grid
        if same and source.qtype.is_float:
            after = as_stored(after, source.qtype.name)
        same = same and np.array_equal(before, after)
    return Converted(source.name, source.qtype.name, written.qtype.name, same, largest)


def summary(weights: Iterable[Converted]) -> str:
    """How many weights are exact."""
    found = list(weights)
    exact = sum(weight.exact for weight in found)
    return f"{exact} of {len(found)} weights exact"
