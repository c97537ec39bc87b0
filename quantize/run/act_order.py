"""Act-order, GPTQ's `desc_act`: columns are rounded from the most important to the least.

Errors of the columns that count most then go to all others, and columns of like importance share a
scale. Importance is the mean square of an input, the diagonal of the Hessian. Linears that read one
input have one order, which readers that make one linear of q, k and v rely on.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from export import CONTAINERS, Container
from quantize.checkpoint import Checkpoint
from quantize.methods import METHODS
from quantize.plan import Plan, assign, matrix_widths, ruled
from quantize.run.copied import Kept
from runtime.archs import Arch, InputGroup
from runtime.channel_order import absorbed
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of


class Columns:
    """The order in which a weight's columns are rounded: their own, or of falling importance."""

    def __init__(self, hessian: torch.Tensor | None, ordered: bool) -> None:
        """`hessian`: (in, in) of the inputs, its diagonal, or None."""
        self.order: torch.Tensor | None = None
        self.hessian = hessian
        """In that order."""
        if ordered:
            assert hessian is not None, "refused by `check`"
            diagonal = hessian.diagonal() if hessian.ndim == 2 else hessian
            self.order = torch.argsort(diagonal, descending=True, stable=True)  # (in,)
            rows = hessian[self.order]
            self.hessian = rows[:, self.order] if hessian.ndim == 2 else rows

    def sorted(self, weight: torch.Tensor) -> torch.Tensor:
        """The columns of a weight (out, in) in the order."""
        return weight if self.order is None else weight[:, self.order]

    def unsorted(self, weight: torch.Tensor) -> torch.Tensor:
        """The columns of a sorted weight in their places again."""
        return weight if self.order is None else weight[:, torch.argsort(self.order)]


def stored(order: torch.Tensor | None, linears: Collection[str]) -> dict[str, np.ndarray]:
    """What is stored beside linears in an order: int32 (in,) as in `Tensor.order`."""
    if order is None:
        return {}
    columns = numpy_of(order).astype(np.int32)
    return {order_name(f"{linear}.weight"): columns for linear in linears}


def absorbed_for(checkpoint: Checkpoint, containers: Iterable[Container]) -> Checkpoint:
    """The checkpoint for these containers: where one has no act-order, with as little of it as the
    model can be written in (runtime/channel_order.py), and a note."""
    ordered = [qtype for qtype in QUANT_TYPES.values() if qtype.ordered]
    if all(any(map(container.holds, ordered)) for container in containers):
        return checkpoint
    tensors, count = absorbed(checkpoint.arch, checkpoint.tensors)
    if not count:
        return checkpoint
    note = (
        f"act-order of {count} weights is taken up by the rows of the linears before them, which "
        "changes no output"
    )
    return replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, note))


def order_name(name: str) -> str:
    """What the order of a weight is called beside it."""
    return f"{name.removesuffix('.weight')}.order"


def parts(
    groups: Collection[InputGroup], types: Mapping[str, QuantType], kept: Collection[str]
) -> Iterator[tuple[InputGroup, bool, list[str]]]:
    """Linears that are rounded against one Hessian in one order: their input group, whether in
    act-order, and their names. Those of `kept` are left out.

    Experts come last: what became of them is not there yet while the largest Hessians are.
    """
    for group in sorted(groups, key=lambda group: group.expert is not None):
        for ordered in (False, True):
            linears = [name for name in group.linears if types[name].ordered == ordered]
            if linears := [name for name in linears if name not in kept]:
                yield group, ordered, linears


def check(plan: Plan, arch: Arch, kept: Kept) -> None:
    """Raise InputError for a weight that cannot be rounded in act-order."""
    shapes = arch.shapes()
    for name, qtype in wanted(plan, arch):
        plain = qtype.unordered.name
        if not name.startswith("blk.") or len(shapes[name]) > 2:
            raise InputError(
                f"{name} cannot be {qtype.name}: act-order is for the linears of decoder layers, "
                f"not for tables and experts; choose {plain} for it."
            )
        if METHODS[plan.method].factor is None and not kept.holds(name, qtype):
            raise InputError(
                f"{name} cannot be {qtype.name} with --method {plan.method}: act-order sorts "
                f"columns for GPTQ's error feedback; choose --method gptq, or {plain}."
            )


def wanted(plan: Plan, arch: Arch) -> Iterator[tuple[str, QuantType]]:
    """Weights and types of a plan that are in act-order. Automatic targets choose none."""
    for target in plan.targets:
        container = CONTAINERS[target.container]
        types = {} if target.automatic else assign(target, arch, plan.rules).types
        for name in matrix_widths(arch):
            found = ruled(name, plan.rules, container) if target.automatic else types[name].name
            if found and QUANT_TYPES[found].ordered:
                yield name, QUANT_TYPES[found]
