"""The pieces in which a layer is rounded: what an input is rounded against, then rows after rows.

Each is a function of its arguments alone, and gives the same wherever it is computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from quantize.methods import HessianFactor, output_error
from quantize.methods.descent import descend
from quantize.run.act_order import Columns
from quantize.run.recipe import Recipe
from runtime.quant_types import QuantType, numpy_of, to_numpy

CHUNK = 1 << 23
"""Weights rounded at a time."""
Error = tuple[float, float]
"""Squared error, and the square of what is right."""


@dataclass(frozen=True)
class Solved:
    """What linears of one input are rounded against."""

    hessian: torch.Tensor | None
    """As their inputs have it, (in, in), or its diagonal."""
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
    recipe: Recipe, hessian: torch.Tensor | None, ordered: bool, where: str
) -> tuple[Told, Solved]:
    """What the linears of an input are rounded against. Raises as `Recipe.factor` does."""
    columns = Columns(hessian, ordered)
    factor, note = recipe.factor(columns.hessian, where)
    return Told(note, columns.order), Solved(hessian, columns, factor)


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
    columns = against.columns
    packed, value = quantize_weight(columns.sorted(weight), qtype, recipe, against.factor)
    value = columns.unsorted(value)
    return RoundedRows(packed, value if valued else None, error_of(weight, value, against.hessian))


def joined(rows: Iterable[RoundedRows], like: torch.Tensor | None) -> RoundedRows:
    """A linear of its rows, one after the other; `like`: the weight, where values are wanted."""
    packed, values, start = [], None if like is None else torch.empty_like(like), 0
    error = square = 0.0
    for part in rows:
        packed.append(part.packed)
        if values is not None and part.values is not None:
            values[start : start + len(part.values)] = part.values
        start += len(part.packed)
        error, square = error + part.error[0], square + part.error[1]
    return RoundedRows(np.concatenate(packed), values, (error, square))


def chunks(weight: torch.Tensor, chunk: int = CHUNK) -> tuple[torch.Tensor, ...]:
    """The rows of a weight (out, in) that are rounded at a time, about `chunk` numbers each."""
    return torch.split(weight, max(1, chunk // weight.shape[1]))


def quantize_weight(
    weight: torch.Tensor,
    qtype: QuantType,
    recipe: Recipe,
    factor: HessianFactor | None,
    chunk: int = CHUNK,
) -> tuple[np.ndarray, torch.Tensor]:
    """Round (out, in), some rows at a time: packed rows, and the values a reader will see."""
    parts, values, start = [], torch.empty_like(weight), 0
    for rows in chunks(weight, chunk):
        rounded = recipe.method.round(rows, qtype, factor)
        if factor is not None and factor.hessian is not None and not qtype.is_float:
            for _ in range(recipe.descent_iterations):
                rounded = descend(rows, rounded, qtype, factor.hessian, factor.ridge)
        values[start : start + len(rows)] = rounded.value
        start += len(rows)
        parts.append(qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params)))
    return np.concatenate(parts), values


def error_of(weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor | None) -> Error:
    """Squared error of the outputs, and their own square; without a Hessian of the weights."""
    counted = torch.ones_like(weight[0]) if hessian is None else hessian
    return output_error(weight - value, counted), output_error(weight, counted)
