"""Changes of a layer before it is rounded: the scales of a method, and rewrites."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from quantize.calibration.stream import Weights
from quantize.calibration.streamed import whole
from quantize.methods import Method
from quantize.rewrites import REWRITES, check_preserved, fold
from quantize.run.recipe import Recipe
from runtime.archs import InputGroup, LayerSpec
from runtime.quant_types import QuantType
from runtime.tensor import Tensor


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
    groups = tuple(
        g
        for g in spec.groups
        if g.name in hessians and kept.keys().isdisjoint([*g.linears, g.fold])
    )
    if recipe.method.scales:
        fold_scales(new, groups, types, statistics_of, recipe.method)
    for name in recipe.rewrites:
        REWRITES[name].apply(new, groups, types, statistics_of, recipe.damp)
    check_preserved(spec, weights, new, where)
    return new, statistics_of


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
        linears = [whole(weights[f"{linear}.weight"]) for linear in group.linears]
        scale = method.scales(
            linears, [types[linear] for linear in group.linears], hessians[group.name]
        )
        fold(weights, group, scale, hessians)
