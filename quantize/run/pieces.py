"""The pieces in which a layer is rounded: what an input is rounded against, then rows after rows.

Each is a function of its arguments alone, and gives the same wherever it is computed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibration.rows import batches
from quantize.calibration.streamed import StreamedLinear
from quantize.methods import HessianFactor, output_error
from quantize.methods.descent import descend
from quantize.methods.fixed_order import sum_of
from quantize.run.act_order import Columns
from quantize.run.recipe import Recipe, Spare
from runtime.quant_types import QuantType, numpy_of, to_numpy

CHUNK = 1 << 23
"""Weights rounded at a time."""
PANEL = 2048
"""Columns of a factor that `factored_error` multiplies with at a time."""
Error = tuple[float, float]
"""Squared error, and the square of what is right."""


@dataclass(frozen=True)
class Solved:
    """What linears of one input are rounded against."""

    hessian: torch.Tensor | None
    """As their inputs have it, (in, in), or its diagonal; None where the factor took its place."""
    columns: Columns
    factor: HessianFactor | None
    """In the order of the columns."""


@dataclass(frozen=True)
class Told:
    """What is known of a Solved without looking at it."""

    note: str | None
    """What the user must be told."""
    order: torch.Tensor | None
    """See `Columns.order`."""


def solve(
    recipe: Recipe,
    hessian: torch.Tensor | None,
    ordered: bool,
    where: str,
    spare: Spare | None = None,
) -> tuple[Told, Solved]:
    """What the linears of an input are rounded against. Arguments and errors as in
    `Recipe.factor`."""
    columns = Columns(hessian, ordered)
    factor, note = recipe.factor(columns.hessian, where, spare)
    gone = factor is not None and replaces(factor)
    return Told(note, columns.order), Solved(None if gone else hessian, columns, factor)


@dataclass(frozen=True)
class RoundedRows:
    """Some rows of a linear, rounded."""

    packed: np.ndarray
    values: torch.Tensor | None
    """(rows, in) that a reader of the file will see; None where nobody wants them."""
    error: Error


def round_rows(
    against: Solved, recipe: Recipe, qtype: QuantType, weight: torch.Tensor, valued: bool
) -> RoundedRows:
    """Round rows of a linear (out, in); with values where `valued`."""
    columns, factor = against.columns, against.factor
    packed, value = quantize_weight(columns.sorted(weight), qtype, recipe, factor)
    value = columns.unsorted(value)
    if factor is not None and replaces(factor):
        error = factored_error(weight - value, factor), factored_error(weight, factor)
    else:
        error = error_of(weight, value, against.hessian)
    return RoundedRows(packed, value if valued else None, error)


def replaces(factor: HessianFactor) -> bool:
    """Whether a factor took the place of its Hessian."""
    return factor.root is not None and factor.hessian is None


def joined(
    rows: Iterable[RoundedRows], weight: torch.Tensor | StreamedLinear, valued: bool
) -> RoundedRows:
    """A linear of its rows, one after the other; with values where `valued`."""
    packed, start = np.empty((0, 0), np.uint8), 0
    values = torch.empty(weight.shape, device=weight.device) if valued else None
    error = square = 0.0
    for part in rows:
        if not start:
            packed = np.empty((len(weight), part.packed.shape[1]), np.uint8)
        here = slice(start, start + len(part.packed))
        packed[here] = part.packed
        if values is not None and part.values is not None:
            values[here] = part.values
        start = here.stop
        error, square = error + part.error[0], square + part.error[1]
    return RoundedRows(packed, values, (error, square))


def chunks(weight: torch.Tensor | StreamedLinear, chunk: int = CHUNK) -> Iterator[torch.Tensor]:
    """The rows of a weight (out, in) that are rounded at a time, about `chunk` numbers each."""
    step = max(1, chunk // weight.shape[1])
    if isinstance(weight, StreamedLinear):
        return (rows for _, rows in weight.blocks(batches(len(weight), step)))
    return iter(torch.split(weight, step))


def quantize_weight(
    weight: torch.Tensor, qtype: QuantType, recipe: Recipe, factor: HessianFactor | None
) -> tuple[np.ndarray, torch.Tensor]:
    """Round (out, in): packed rows, and the values a reader will see."""
    rounded = recipe.method.round(weight, qtype, factor)
    if factor is not None and factor.hessian is not None and not qtype.is_float:
        for _ in range(recipe.descent_iterations):
            rounded = descend(weight, rounded, qtype, factor.hessian, factor.ridge)
    return qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params)), rounded.value


def error_of(weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor | None) -> Error:
    """Squared error of the outputs, and their own square; without a Hessian of the weights."""
    counted = torch.ones_like(weight[0]) if hessian is None else hessian
    return output_error(weight - value, counted), output_error(weight, counted)


def factored_error(error: torch.Tensor, factor: HessianFactor) -> float:
    """trace(E H E^T) of E (rows, in) where of H only its factor is left."""
    assert factor.root is not None
    found, dead = 0.0, factor.importance == 0
    for start in range(0, len(factor.root), PANEL):
        stop = min(start + PANEL, len(factor.root))
        found += sum_of((error[:, :stop] @ factor.root[:stop, start:stop]).square())
    added = torch.where(dead, factor.ridge / factor.damp, factor.ridge)
    return found - sum_of(error.square() * added)
