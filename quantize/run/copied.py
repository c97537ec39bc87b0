"""Weights that are never rounded a second time: of the target's type, or on its grid, already.

A second rounding into the same type is not harmless: of equal blocks llama.cpp keeps half in Q3_K,
and any search may find other scales for values that lie on a grid already. So rows whose type in
the source is the one that they get go into the artifact as they are, whatever the method, and
nothing that moves numbers between tensors (scales, rewrites, tuning) touches them. So do weights
that lie on a grid of the target's type (quantize/lattice.py): their codes are known.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from export import CONTAINERS, Container
from quantize.checkpoint import check_finite
from quantize.lattice import exact_rows, share
from quantize.plan import Assignment
from runtime.archs import LayerSpec
from runtime.errors import UnsupportedError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.stored import StoredTensors
from runtime.tensor import Tensor

GRIDS = (
    *("INT2_128_SYM_F16", "INT4_128_SYM_F16", "INT4_128_F16", "Q4_0", "Q4_1", "Q5_0"),
    *("INT8_128_SYM_F16", "Q8_0"),
)
"""Types on whose grids a model is looked for, the smallest first: those of ternary models (BitNet),
GPTQ, AWQ, quantization-aware training and MXFP4 (whose points are multiples that Q5_0 holds)."""
PROBED = 8
"""Linears, spread over the layers, most of which must lie on a grid before all are looked at."""
NAMED = 3
"""Weights off the grid that are named in a note."""
CHUNK = 1 << 22
"""Weights that are decoded at a time to look for NaN and infinity."""


def stays(source: QuantType, target: QuantType) -> bool:
    """Whether weights of one type go into another as they are.

    Floats need no such rule: F16 of F16 is exact, and takes what a method makes of other weights.
    """
    return source.name == target.name and not target.is_float


def copied_rows(tensor: Tensor, target: QuantType) -> np.ndarray | None:
    """The rows of a tensor that stays as it is, uint8 (rows, row_bytes); None where it is rounded.

    Raises CorruptFileError where they decode to NaN or infinity.
    """
    if not stays(tensor.qtype, target) or tensor.scales is not None:
        return exact_rows(tensor, target)
    step = max(1, CHUNK // tensor.cols)
    for start in range(0, tensor.rows, step):
        check_finite(tensor, tensor.decode(start, start + step))
    return tensor.data


@dataclass
class Kept:
    """Which weights of a source need no rounding, remembered: sizes are asked for often."""

    tensors: StoredTensors
    known: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Weight and type -> whether the weight lies on a grid of the type."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of those, why the one container that refuses any cannot store them."""

    def of(self, assignment: Assignment) -> Assignment:
        """The assignment with the weights that are copied, and those on a grid among them."""
        types = assignment.types.items()
        on_grid = frozenset(name for name, qtype in types if self.on_grid(name, qtype))
        copied = frozenset(n for n, qtype in types if stays(self.tensors.qtype(n), qtype))
        container = CONTAINERS[assignment.target.container]
        for name, qtype in types:
            if name in copied | on_grid and (why := self.refused_by(container, name, qtype)):
                raise UnsupportedError(f"{name} {why}")
        return replace(assignment, copied=copied | on_grid, on_grid=on_grid)

    def on_grid(self, name: str, qtype: QuantType) -> bool:
        """Whether a weight lies on a grid of a type that it does not have."""
        if stays(self.tensors.qtype(name), qtype):
            return False
        if (name, qtype.name) not in self.known:
            self.known[name, qtype.name] = exact_rows(self.tensors[name], qtype) is not None
        return self.known[name, qtype.name]

    def holds(self, name: str, qtype: QuantType) -> bool:
        """Whether a type is a weight's own, or holds every number of it as codes."""
        return self.tensors.qtype(name).name == qtype.name or self.on_grid(name, qtype)

    def refused_by(self, container: Container, name: str, qtype: QuantType) -> str:
        """Why a container cannot store the codes of a weight that is copied; "" where it can."""
        if container.refuses is None:
            return ""
        key = (name, qtype.name)
        if key not in self.refused:
            rows = copied_rows(self.tensors[name], qtype)
            self.refused[key] = "" if rows is None else container.refuses(qtype, rows)
        return self.refused[key]

    def notes(self) -> tuple[str, ...]:
        """A sentence where all linears of the layers, or most of them, lie on one grid."""
        names = [n for n, s in self.tensors.shapes.items() if n.startswith("blk.") and len(s) > 1]
        if not self.tensors.qtype(names[0]).is_float:
            return ()
        spread = names[:: max(1, len(names) // PROBED)]
        for qtype in (QUANT_TYPES[type_name] for type_name in GRIDS):
            if 2 * len(self._off(spread, qtype)) >= len(spread):
                continue
            off = self._off(names, qtype)
            if 2 * len(off) < len(names):
                return (self._sentence(names, off, qtype),)
        return ()

    def _off(self, names: list[str], qtype: QuantType) -> list[str]:
        """Those of some weights that lie on no grid of a type."""
        return [name for name in names if not self.on_grid(name, qtype)]

    def _sentence(self, names: list[str], off: list[str], qtype: QuantType) -> str:
        """What is told of weights that lie on a grid but for some."""
        grid = f"lie on a grid of {qtype.name} ({qtype.size} a block): exact at {qtype.bits:g} bits"
        if not off:
            return f"the weights {grid} a weight"
        # of a weight that is not whole on the grid, 99% at most
        parts = {n: min(99, int(100 * share(self.tensors[n], qtype))) for n in off[:NAMED]}
        told = ", ".join(f"{name} ({part}% of its blocks)" for name, part in parts.items())
        more = f" and {len(off) - NAMED} more" if len(off) > NAMED else ""
        count = f"{len(names) - len(off)} of {len(names)} weights of the layers"
        return f"{count} {grid} a weight; not so {told}{more}"


def copied_linears(
    tensors: StoredTensors, member: Assignment, spec: LayerSpec, index: int
) -> dict[str, Tensor]:
    """The linears of layer `index` that are copied for a target. Raises as `copied_rows` does."""
    found: dict[str, Tensor] = {}
    for linear in spec.linears:
        name = f"blk.{index}.{linear}.weight"
        if name in member.copied:
            source, qtype = tensors[name], member.types[name]
            rows = copied_rows(source, qtype)
            assert rows is not None, name
            found[linear] = Tensor(name, source.shape, qtype, rows, order=source.order)
    return found
