"""Rounding of one layer: rewrites, then every linear onto its grid, in the order of the inputs."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from quantize.calibration.stream import Weights
from quantize.calibration.streamed import Streamed, StreamedLinear
from quantize.calibration.workers import HERE, Workers
from quantize.run import act_order
from quantize.run.pieces import CHUNK, Error, chunks, joined, round_rows, solve
from quantize.run.recipe import Recipe, Spare
from runtime.archs import InputGroup
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
    workers: Workers = HERE,
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
    there = list(act_order.parts(groups, types, kept))
    inputs = (
        (
            hessians.get(group.name),
            ordered,
            f"{where}{'/'.join(map(group.part, linears))}",
            spare if group.expert is None else None,
        )
        for group, ordered, linears in there
    )
    solved = workers.map_kept(solve, recipe, inputs)
    for group, _, linears in there:
        told, against = next(solved)
        notes += [told.note] if told.note else []
        packed |= act_order.stored(told.order, linears)
        for linear in linears:
            name = f"{linear}.weight"
            weight = group.matrix(linear, weights)
            valued = not (workers.reads_packed or isinstance(weight, StreamedLinear))
            rows = ((recipe, types[linear], part, valued) for part in chunks(weight, chunk))
            found = joined(workers.map(round_rows, against, rows), weight, valued)
            parts.setdefault(name, []).append(found.packed)
            errors.setdefault(linear, []).append(found.error)
            shapes[name] = (len(parts[name]), *weight.shape)
            if group.expert is None and found.values is not None:
                values[name] = found.values
        if spare and group.expert is None:
            hessians.pop(group.name)
        del against  # the next ones need its room
    for name, tensor in ((f"{linear}.weight", tensor) for linear, tensor in kept.items()):
        packed[name], values[name] = tensor.data, values_of(tensor, weights[name])
        if tensor.order is not None:
            packed[act_order.order_name(name)] = tensor.order
    for name in list(parts):
        of = parts.pop(name)  # gone when the next ones are put together
        packed[name] = np.concatenate(of) if len(of) > 1 else of[0]
        if name not in values and not workers.reads_packed:
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


def relative(errors: list[Error]) -> float:
    """Squared errors of all experts over their squares."""
    return sum(error for error, _ in errors) / max(sum(square for _, square in errors), 1e-30)
