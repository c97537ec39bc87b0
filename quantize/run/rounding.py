"""Rounding of one layer: rewrites, then every linear onto its grid, in the order of the inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from quantize.calibration.stream import Weights
from quantize.calibration.streamed import Streamed
from quantize.calibration.workers import HERE, Workers
from quantize.methods import Method
from quantize.rewrites import REWRITES, check_preserved, fold
from quantize.run import act_order
from quantize.run.pieces import CHUNK, Error, chunks, joined, round_rows, solve
from quantize.run.recipe import Recipe
from runtime.archs import InputGroup, LayerSpec
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of
from runtime.tensor import Shape, Tensor


@dataclass(frozen=True)
class LayerResult:
    """One layer, rounded for one target."""

    packed: dict[str, np.ndarray]
    """Name within the layer -> uint8 rows; norms and biases as F32."""
    values: Weights
    """What a reader of the file will compute with; not of linears where workers read `packed`."""
    losses: dict[str, float]
    """Linear -> relative squared error of its outputs (calibrated) or of its weights."""
    notes: tuple[str, ...]
    """What the user must be told: damping that grew, fallbacks."""


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
    workers: Workers = HERE,
) -> LayerResult:
    """Round every linear of one layer, each expert's part of it with a Hessian of its own.

    `types`: linear -> block; `hessians`: input group -> H, (in, in), or its diagonal; `chunk`:
    weights rounded at a time; `kept`: linears that are copied (copied.py) -> what they are.
    """
    valued = not workers.reads_packed
    values: Weights = {}
    parts: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[Error]] = {linear: [] for linear in kept}
    shapes: dict[str, Shape] = {}
    notes: list[str] = []
    packed: dict[str, np.ndarray] = {}
    there = list(act_order.parts(groups, types, kept))
    inputs = (
        (hessians.get(group.name), ordered, f"{where}{'/'.join(map(group.part, linears))}")
        for group, ordered, linears in there
    )
    solved = workers.map_kept(solve, recipe, inputs)
    for (group, _, linears), (told, against) in zip(there, solved, strict=True):
        notes += [told.note] if told.note else []
        packed |= act_order.stored(told.order, linears)
        for linear in linears:
            name = f"{linear}.weight"
            weight = group.matrix(linear, weights)
            rows = ((recipe, types[linear], part, valued) for part in chunks(weight, chunk))
            found = joined(workers.map(round_rows, against, rows), weight if valued else None)
            parts.setdefault(name, []).append(found.packed)
            errors.setdefault(linear, []).append(found.error)
            shapes[name] = (len(parts[name]), *weight.shape)
            if group.expert is None and found.values is not None:
                values[name] = found.values
    for name, tensor in ((f"{linear}.weight", tensor) for linear, tensor in kept.items()):
        packed[name], values[name] = tensor.data, values_of(tensor, weights[name].device)
        if tensor.order is not None:
            packed[act_order.order_name(name)] = tensor.order
    for name in list(parts):
        of = parts.pop(name)  # gone when the next ones are put together
        packed[name] = np.concatenate(of) if len(of) > 1 else of[0]
        if name not in values and valued:
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
