"""Rounding of one layer: rewrites, then every linear onto its grid, in the order of the inputs."""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType

import numpy as np
import torch

from quantize.calibration.stream import Weights, batches
from quantize.calibration.streamed import Streamed, StreamedLinear
from quantize.methods import HessianFactor, Method, SingularHessian, output_error
from quantize.methods.descent import descend
from quantize.run import act_order
from runtime.archs import InputGroup
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of, to_numpy
from runtime.tensor import Shape, Tensor

CHUNK = 1 << 23
"""Weights rounded at a time."""
PANEL = 2048
"""Columns of a factor that `factored_error` multiplies with at a time."""
Error = tuple[float, float]
"""Squared error, and the square of what is right."""
Spare = Callable[[torch.Tensor], Callable[[torch.Tensor], None]]
"""Keeps a copy of a Hessian elsewhere, and returns what writes it into its array again."""


@dataclass(frozen=True)
class LayerResult:
    """One layer, rounded for one target."""

    packed: dict[str, np.ndarray]
    """Name within the layer -> uint8 rows; norms and biases as F32."""
    values: Weights
    """What a reader of the file will compute with."""
    losses: dict[str, float]
    """Linear -> relative squared error of its outputs (calibrated) or of its weights."""
    notes: tuple[str, ...]
    """What the user must be told: damping that grew, fallbacks."""


@dataclass(frozen=True)
class Recipe:
    """How linears are rounded: a method and its settings."""

    method: Method
    _: KW_ONLY
    damp: float = 0.01
    allow_fallback: bool = False
    descent_iterations: int = 0
    """Passes of coordinate descent after rounding, where the method has factored a Hessian."""
    rewrites: tuple[str, ...] = ()
    """Function-preserving changes before rounding (quantize/rewrites), by name."""

    def factor(
        self, hessian: torch.Tensor | None, where: str, spare: Spare | None = None
    ) -> tuple[HessianFactor | None, str | None]:
        """The factor of an input group, and a note when damping grew or a fallback was taken.

        A Hessian of which only the diagonal (in,) is known is the importance as it stands. With
        `spare` the factor takes the Hessian's place.
        Raises EdgequantError naming the layer for a Hessian that stays singular, unless fallbacks
        are allowed.
        """
        if hessian is not None and hessian.ndim == 1:
            return HessianFactor(hessian), None
        if hessian is None or self.method.factor is None:
            return None, None
        try:
            more = (spare(hessian),) if spare else ()
            factor = self.method.factor(hessian, self.damp, *more)
        except SingularHessian:
            if self.allow_fallback:
                return None, f"{where}: singular Hessian, rounded to nearest (--allow-fallback)"
            raise InputError(
                f"{where}: the Hessian stays singular with any damping, so its inputs are zero or "
                "not finite; use other calibration text, or --allow-fallback to round to nearest."
            ) from None
        grown = factor.damp > self.damp
        return factor, f"{where}: damping grew to {factor.damp:g}" if grown else None


def quantize_layer(
    weights: Weights,
    groups: tuple[InputGroup, ...],
    types: Mapping[str, QuantType],
    hessians: MutableMapping[str, torch.Tensor],
    recipe: Recipe,
    where: str = "",
    chunk: int = CHUNK,
    kept: Mapping[str, Tensor] = MappingProxyType({}),
    spare: Spare | None = None,
) -> LayerResult:
    """Round every linear of one layer, each expert's part of it with a Hessian of its own.

    `types`: linear -> block; `hessians`: input group -> H, (in, in), or its diagonal; `chunk`:
    weights rounded at a time; `kept`: linears that are copied (copied.py) -> what they are. With
    `spare` a factor takes the place of its Hessian, which is dropped when its linears are rounded.
    """
    values: Weights = {}
    parts: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[Error]] = {linear: [] for linear in kept}
    shapes: dict[str, Shape] = {}
    notes: list[str] = []
    packed: dict[str, np.ndarray] = {}
    for group, ordered, linears in act_order.parts(groups, types, kept):
        hessian, named = hessians.get(group.name), "/".join(map(group.part, linears))
        columns = act_order.Columns(hessian, ordered)
        own = None if group.expert is not None else spare
        factor, note = recipe.factor(columns.hessian, f"{where}{named}", own)
        notes += [note] if note else []
        packed |= columns.stored(linears)
        for linear in linears:
            name = f"{linear}.weight"
            weight = group.matrix(linear, weights)
            shapes[name] = (len(parts.get(name, ())) + 1, *weight.shape)
            rows, value, error = round_linear(
                weight, columns, types[linear], recipe, factor, hessian, chunk
            )
            if group.expert is None and value is not None:
                values[name] = value
            parts.setdefault(name, []).append(rows)
            errors.setdefault(linear, []).append(error)
        if own:
            hessians.pop(group.name)
        del hessian, columns, factor  # the next ones need their room
    for name, tensor in ((f"{linear}.weight", tensor) for linear, tensor in kept.items()):
        packed[name], values[name] = tensor.data, values_of(tensor, weights[name])
        if tensor.order is not None:
            packed[act_order.order_name(name)] = tensor.order
    for name in list(parts):
        of = parts.pop(name)  # gone when the next ones are put together
        packed[name] = np.concatenate(of) if len(of) > 1 else of[0]
        if name not in values:
            one = isinstance(weights[name], StreamedLinear)
            shape, qtype = shapes[name][one:], types[name.removesuffix(".weight")]
            order = packed.get(act_order.order_name(name))
            whole = Tensor(name, shape, qtype, packed[name], order=order)
            values[name] = values_of(whole, weights[name])
    losses = {linear: relative(of) for linear, of in errors.items()}
    vectors = {name: weights[name] for name in weights.keys() - packed.keys()}
    packed |= {
        name: QUANT_TYPES["F32"].pack(numpy_of(v).reshape(1, -1), {}) for name, v in vectors.items()
    }
    values |= vectors
    return LayerResult(packed, values, losses, tuple(notes))


def values_of(
    tensor: Tensor, weight: torch.Tensor | Streamed | StreamedLinear
) -> torch.Tensor | Streamed | StreamedLinear:
    """What a reader sees of a tensor in the place of a weight: experts, which are many, and what
    takes the place of a streamed one are decoded when they are read."""
    if len(tensor.shape) == 3:
        return Streamed(tensor.matrix, weight.device)
    if isinstance(weight, StreamedLinear):
        return StreamedLinear(lambda: tensor, tensor.shape, weight.device)
    return torch.from_numpy(np.array(tensor.decode())).to(weight.device)


def round_linear(
    weight: torch.Tensor | StreamedLinear,
    columns: act_order.Columns,
    qtype: QuantType,
    recipe: Recipe,
    factor: HessianFactor | None,
    hessian: torch.Tensor | None,
    chunk: int,
) -> tuple[np.ndarray, torch.Tensor | None, Error]:
    """Round a weight (out, in): packed rows, values unless it is streamed, and its error."""
    if isinstance(weight, StreamedLinear):
        replaced = factor is not None and factor.root is not None and factor.hessian is None
        counted = factor if replaced else hessian
        return round_streamed(weight, columns, qtype, recipe, factor, counted, chunk)
    rows, value = quantize_weight(columns.sorted(weight), qtype, recipe, factor, chunk)
    value = columns.unsorted(value)
    return rows, value, error_of(weight, value, hessian, chunk)


def round_streamed(
    weight: StreamedLinear,
    columns: act_order.Columns,
    qtype: QuantType,
    recipe: Recipe,
    factor: HessianFactor | None,
    counted: torch.Tensor | HessianFactor | None,
    chunk: int,
) -> tuple[np.ndarray, None, Error]:
    """Round a weight (out, in) of which `chunk` numbers are decoded at a time: packed rows, and
    its error by a Hessian, its diagonal, or the factor that took its place."""
    step = max(1, chunk // weight.shape[1])
    packed, error, square = np.zeros((len(weight), 0), np.uint8), 0.0, 0.0
    for here, rows in weight.blocks(batches(len(weight), step)):
        of_rows, value = quantize_weight(columns.sorted(rows), qtype, recipe, factor, chunk)
        if not here.start:
            packed = np.empty((len(weight), of_rows.shape[1]), np.uint8)
        packed[here] = of_rows
        if isinstance(counted, HessianFactor):
            error += factored_error(columns.sorted(rows) - value, counted)
            square += factored_error(columns.sorted(rows), counted)
        else:
            more = error_of(rows, columns.unsorted(value), counted, chunk)
            error, square = error + more[0], square + more[1]
    return packed, None, (error, square)


def quantize_weight(
    weight: torch.Tensor,
    qtype: QuantType,
    recipe: Recipe,
    factor: HessianFactor | None,
    chunk: int = CHUNK,
) -> tuple[np.ndarray, torch.Tensor]:
    """Round (out, in), some rows at a time: packed rows, and the values a reader will see."""
    step = max(1, chunk // weight.shape[1])
    parts, values = [], torch.empty_like(weight)
    for start in range(0, weight.shape[0], step):
        rows = weight[start : start + step]
        rounded = recipe.method.round(rows, qtype, factor)
        if factor is not None and factor.hessian is not None and not qtype.is_float:
            for _ in range(recipe.descent_iterations):
                rounded = descend(rows, rounded, qtype, factor.hessian, factor.ridge)
        values[start : start + step] = rounded.value
        parts.append(qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params)))
    return np.concatenate(parts), values


def error_of(
    weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor | None, chunk: int = CHUNK
) -> Error:
    """Squared error of the outputs, and their own square; without a Hessian of the weights.

    `chunk` weights are taken at a time.
    """
    counted = torch.ones_like(weight[0]) if hessian is None else hessian
    step = max(1, chunk // weight.shape[1])
    error = square = 0.0
    for right, rounded in zip(torch.split(weight, step), torch.split(value, step), strict=True):
        error += output_error(right - rounded, counted)
        square += output_error(right, counted)
    return error, square


def relative(errors: list[Error]) -> float:
    """Squared errors of all experts over their squares."""
    return sum(error for error, _ in errors) / max(sum(square for _, square in errors), 1e-30)


def factored_error(error: torch.Tensor, factor: HessianFactor) -> float:
    """trace(E H E^T) of E (rows, in) where of H only its factor is left."""
    assert factor.root is not None
    total, dead = 0.0, factor.importance == 0
    for start in range(0, len(factor.root), PANEL):
        stop = min(start + PANEL, len(factor.root))
        total += float((error[:, :stop] @ factor.root[:stop, start:stop]).square().sum())
    added = torch.where(dead, factor.ridge / factor.damp, factor.ridge)
    return total - float((error.square() * added).sum())
