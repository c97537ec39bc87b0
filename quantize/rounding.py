"""Rounding of one layer: rewrites, then every linear onto its grid, in the order of the inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from quantize.methods import Factor, Method, SingularHessian, output_error
from quantize.methods.descent import descend
from quantize.rewrites import REWRITES, check_preserved, fold
from quantize.stream import Weights
from runtime.archs import InputGroup, LayerSpec
from runtime.blocks import BLOCKS, Block, numpy_of, to_numpy
from runtime.errors import EdgequantError

CHUNK = 1 << 23
"""Weights rounded at a time: 32 MiB of float32, of which descent keeps a dozen copies."""


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
    damp: float = 0.01
    allow_fallback: bool = False
    passes: int = 0
    """Coordinate descent after rounding, where the method has factored a Hessian."""
    rewrites: tuple[str, ...] = ()
    """Function-preserving changes before rounding (quantize/rewrites), by name."""

    def factor(self, hessian: torch.Tensor | None, where: str) -> tuple[Factor | None, str | None]:
        """The factor of an input group, and a note when damping grew or a fallback was taken.

        A Hessian of which only the diagonal (in,) is known is the importance as it stands.
        Raises EdgequantError naming the layer for a Hessian that stays singular, unless fallbacks
        are allowed.
        """
        if hessian is not None and hessian.ndim == 1:
            return Factor(hessian), None
        if hessian is None or self.method.factor is None:
            return None, None
        try:
            factor = self.method.factor(hessian, self.damp)
        except SingularHessian:
            if self.allow_fallback:
                return None, f"{where}: singular Hessian, rounded to nearest (--allow-fallback)"
            raise EdgequantError(
                f"{where}: the Hessian stays singular with any damping, so its inputs are zero or "
                "not finite; use other calibration text, or --allow-fallback to round to nearest."
            ) from None
        grown = factor.damp > self.damp
        return factor, f"{where}: damping grew to {factor.damp:g}" if grown else None


def rewrite_layer(
    spec: LayerSpec,
    weights: Weights,
    types: Mapping[str, Block],
    hessians: dict[str, torch.Tensor],
    recipe: Recipe,
    where: str,
) -> tuple[Weights, dict[str, torch.Tensor]]:
    """The layer and its Hessians with the scales of the method and the rewrites of the recipe.

    Arguments as in `quantize_layer`. Raises EdgequantError naming the layer when that changed what
    it computes beyond rounding.
    """
    whole = bool(hessians) and all(hessian.ndim == 2 for hessian in hessians.values())
    if not whole or not (recipe.method.scales or recipe.rewrites):
        return weights, hessians
    new, statistics_of = dict(weights), dict(hessians)
    if recipe.method.scales:
        fold_scales(new, spec.groups, types, statistics_of, recipe.method)
    for name in recipe.rewrites:
        REWRITES[name].apply(new, spec.groups, types, statistics_of, recipe.damp)
    check_preserved(spec, weights, new, where)
    return new, statistics_of


def quantize_layer(
    weights: Mapping[str, torch.Tensor],
    groups: tuple[InputGroup, ...],
    types: Mapping[str, Block],
    hessians: Mapping[str, torch.Tensor],
    recipe: Recipe,
    where: str = "",
    chunk: int = CHUNK,
) -> LayerResult:
    """Round every linear of one layer.

    `types`: linear -> block; `hessians`: input group -> H, (in, in), or its diagonal; `chunk`:
    weights rounded at a time.
    """
    packed: dict[str, np.ndarray] = {}
    values: Weights = {}
    losses: dict[str, float] = {}
    notes: list[str] = []
    for group in groups:
        hessian = hessians.get(group.name)
        factor, note = recipe.factor(hessian, f"{where}{'/'.join(group.linears)}")
        notes += [note] if note else []
        for linear in group.linears:
            name = f"{linear}.weight"
            packed[name], values[name] = quantize_weight(
                weights[name], types[linear], recipe, factor, chunk
            )
            losses[linear] = relative_error(weights[name], values[name], hessian)
    for name, vector in weights.items():
        if name not in packed:
            packed[name] = BLOCKS["F32"].pack(numpy_of(vector).reshape(1, -1), {})
            values[name] = vector
    return LayerResult(packed, values, losses, tuple(notes))


def quantize_weight(
    weight: torch.Tensor, block: Block, recipe: Recipe, factor: Factor | None, chunk: int = CHUNK
) -> tuple[np.ndarray, torch.Tensor]:
    """Round (out, in), some rows at a time: packed rows, and the values a reader will see."""
    step = max(1, chunk // weight.shape[1])
    parts, values = [], torch.empty_like(weight)
    for start in range(0, weight.shape[0], step):
        rows = weight[start : start + step]
        rounded = recipe.method.round(rows, block, factor)
        if factor is not None and factor.hessian is not None and not block.is_float:
            for _ in range(recipe.passes):
                rounded = descend(rows, rounded, block, factor.hessian, factor.ridge)
        values[start : start + step] = rounded.value
        parts.append(block.pack(numpy_of(rounded.codes), to_numpy(rounded.params)))
    return np.concatenate(parts), values


def relative_error(
    weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor | None
) -> float:
    """Squared error of the outputs over their own square; without a Hessian that of the weights."""
    if hessian is None:
        return float((weight - value).square().sum() / weight.square().sum().clamp(min=1e-30))
    return output_error(weight - value, hessian) / max(output_error(weight, hessian), 1e-30)


def fold_scales(
    weights: Weights,
    groups: tuple[InputGroup, ...],
    types: Mapping[str, Block],
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
