"""What a method is: plain functions on torch tensors that choose codes on a block's grid.

A stage is the set of linears that read one input. Its Hessian H = X^T X / tokens is (in, in),
float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from quantize.methods.fixed_order import sum_of
from runtime.quant_types import Params, QuantType

METHODS: dict[str, "Method"] = {}
"""Every method by its name; each file of this folder registers its own."""


@dataclass(frozen=True)
class HessianFactor:
    """What a method derives once from a stage's Hessian, shared by its linears and row chunks."""

    importance: torch.Tensor
    """(in,): weight of each column's squared error when scales are fitted."""
    root: torch.Tensor | None = None
    """(in, in) upper triangular R with R R^T = H, what was added included."""
    damp: float = 0.0
    """Share of the mean diagonal that was added to H."""
    hessian: torch.Tensor | None = None
    """(in, in): H itself, without what was added."""
    ridge: float = 0.0
    """What was added to its diagonal: damp times its mean."""


@dataclass(frozen=True)
class Rounded:
    """A weight on its grid."""

    codes: torch.Tensor
    """(out, in)"""
    params: Params
    value: torch.Tensor
    """(out, in) float32: the weight that a reader of the file will see."""


Scales = Callable[[list[torch.Tensor], list[QuantType], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Method:
    """One way to choose values. `round` must treat rows independently: they come in chunks."""

    name: str
    summary: str
    calibrated: bool
    """Whether it needs a Hessian."""
    round: Callable[[torch.Tensor, QuantType, HessianFactor | None], Rounded]
    factor: Callable[..., HessianFactor] | None = None
    """hessian, damp, restore -> HessianFactor; see gptq.py. Raises SingularHessian."""
    scales: Callable[[list[torch.Tensor], list[QuantType], torch.Tensor], torch.Tensor] | None = (
        None
    )
    """weights of an input group, their types, hessian -> scale (in,) to move into the op before."""

    def __post_init__(self) -> None:
        METHODS[self.name] = self


class SingularHessian(Exception):
    """The Hessian cannot be factored even with as much damping as its own mean."""


def output_error(error: torch.Tensor, hessian: torch.Tensor) -> float:
    """Mean squared change of the outputs, summed over rows: trace(E H E^T), E (out, in).

    The Hessian is (in, in), or (in,) when only its diagonal is known: then inputs count as
    uncorrelated.
    """
    weighted = error @ hessian if hessian.ndim == 2 else error * hessian
    return sum_of(weighted * error)
