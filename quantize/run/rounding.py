"""Rounding of one layer: rewrites, then every linear onto its grid, in the order of the inputs."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType

import numpy as np
import torch

from quantize.calibration.stream import Weights
from quantize.calibration.streamed import Streamed
from quantize.methods import HessianFactor, Method, SingularHessian, output_error
from quantize.methods.descent import descend
from quantize.rewrites import REWRITES, check_preserved, fold
from quantize.run import act_order
from runtime.archs import InputGroup, LayerSpec
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of, to_numpy
from runtime.tensor import Shape, Tensor

CHUNK = 1 << 23
"""Weights rounded at a time."""
Error = tuple[float, float]
"""Squared error, and the square of what is right."""


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
        self, hessian: torch.Tensor | None, where: str
    ) -> tuple[HessianFactor | None, str | None]:
        """The factor of an input group, and a note when damping grew or a fallback was taken.

        A Hessian of which only the diagonal (in,) is known is the importance as it stands.
        Raises EdgequantError naming the layer for a Hessian that stays singular, unless fallbacks
        are allowed.
        """
        if hessian is not None and hessian.ndim == 1:
            return HessianFactor(hessian), None
        if hessian is None or self.method.factor is None:
            return None, None
        try:
            factor = self.method.factor(hessian, self.damp)
        except SingularHessian:
            if self.allow_fallback:
                return None, f"{where}: singular Hessian, rounded to nearest (--allow-fallback)"
            raise InputError(
                f"{where}: the Hessian stays singular with any damping, so its inputs are zero or "
                "not finite; use other calibration text, or --allow-fallback to round to nearest."
            ) from None
        grown = factor.damp > self.damp
        return factor, f"{where}: damping grew to {factor.damp:g}" if grown else None


def rewrite_layer(
    spec: LayerSpec,
    weights: Weights,
    types: Mapping[str, QuantType],
    hessians: dict[str, torch.Tensor],
    recipe: Recipe,
    where: str,
    kept: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[Weights, dict[str, torch.Tensor]]:
    """The layer and its Hessians with the scales of the method and the rewrites of the recipe.

    Arguments as in `quantize_layer`; no scale goes into or out of a linear of `kept`. Raises
    EdgequantError naming the layer when that changed what it computes beyond rounding.
    """
    whole = bool(hessians) and all(hessian.ndim == 2 for hessian in hessians.values())
    if not whole or not (recipe.method.scales or recipe.rewrites):
        return weights, hessians
    new, statistics_of = dict(weights), dict(hessians)
    groups = tuple(g for g in spec.groups if kept.keys().isdisjoint([*g.linears, g.fold]))
    if recipe.method.scales:
        fold_scales(new, groups, types, statistics_of, recipe.method)
    for name in recipe.rewrites:
        REWRITES[name].apply(new, groups, types, statistics_of, recipe.damp)
    check_preserved(spec, weights, new, where)
    return new, statistics_of


def quantize_layer(
    weights: Mapping[str, torch.Tensor],
    groups: tuple[InputGroup, ...],
    types: Mapping[str, QuantType],
    hessians: Mapping[str, torch.Tensor],
    recipe: Recipe,
    where: str = "",
    chunk: int = CHUNK,
    kept: Mapping[str, Tensor] = MappingProxyType({}),
) -> LayerResult:
    """Round every linear of one layer, each expert's part of it with a Hessian of its own.

    `types`: linear -> block; `hessians`: input group -> H, (in, in), or its diagonal; `chunk`:
    weights rounded at a time; `kept`: linears that are copied (copied.py) -> what they are.
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
        factor, note = recipe.factor(columns.hessian, f"{where}{named}")
        notes += [note] if note else []
        packed |= columns.stored(linears)
        for linear in linears:
            name = f"{linear}.weight"
            weight = group.matrix(linear, weights)
            rows, value = quantize_weight(
                columns.sorted(weight), types[linear], recipe, factor, chunk
            )
            value = columns.unsorted(value)
            parts.setdefault(name, []).append(rows)
            errors.setdefault(linear, []).append(error_of(weight, value, hessian, chunk))
            shapes[name] = (len(parts[name]), *weight.shape)
            if group.expert is None:
                values[name] = value
    for name, tensor in ((f"{linear}.weight", tensor) for linear, tensor in kept.items()):
        packed[name], values[name] = tensor.data, values_of(tensor, weights[name].device)
        if tensor.order is not None:
            packed[act_order.order_name(name)] = tensor.order
    for name in list(parts):
        of = parts.pop(name)  # gone when the next ones are put together
        packed[name] = np.concatenate(of) if len(of) > 1 else of[0]
        if name not in values:
            whole = Tensor(name, shapes[name], types[name.removesuffix(".weight")], packed[name])
            values[name] = values_of(whole, weights[name].device)
    losses = {linear: relative(of) for linear, of in errors.items()}
    for name, vector in weights.items():
        if name not in packed:
            packed[name] = QUANT_TYPES["F32"].pack(numpy_of(vector).reshape(1, -1), {})
            values[name] = vector
    return LayerResult(packed, values, losses, tuple(notes))


def values_of(tensor: Tensor, device: torch.device) -> torch.Tensor | Streamed:
    """What a reader sees of a tensor: experts, which are many, are decoded when they are read."""
    if len(tensor.shape) == 3:
        return Streamed(tensor.matrix, device)
    return torch.from_numpy(np.array(tensor.decode())).to(device)


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


def fold_scales(
    weights: Weights,
    groups: tuple[InputGroup, ...],
    types: Mapping[str, QuantType],
    hessians: dict[str, torch.Tensor],
    method: Method,
) -> None:
    """Move the method's scales out of each input into the op before; the function stays.

    An input that no op before can take a scale of, or one with another number of channels
    (attn_output under grouped-query attention) is left alone, as in AWQ.
    """
    assert method.scales
    for group in groups:
        if group.fold is None or len(weights[f"{group.fold}.weight"]) != group.width:
            continue
        linears = [weights[f"{linear}.weight"] for linear in group.linears]
        scale = method.scales(
            linears, [types[linear] for linear in group.linears], hessians[group.name]
        )
        fold(weights, group, scale, hessians)
