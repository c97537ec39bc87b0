"""From the bytes of one tensor to packed bytes, some rows at a time."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from quantize.calibration.rows import batches
from quantize.checkpoint import check_finite
from quantize.methods import HessianFactor, output_error
from quantize.methods.rtn import rtn
from quantize.run.act_order import order_name
from quantize.run.copied import copied_rows
from quantize.run.cost import FLOAT, Cost
from quantize.run.pieces import CHUNK, quantize_weight
from quantize.run.recipe import Recipe
from quantize.run.rounding_cost import weight_cost
from runtime.memory import drop_pages
from runtime.quant_types import QUANT_TYPES, QuantType, normalize_importance, numpy_of
from runtime.tensor import Shape, Tensor, stored_bytes

DECODED = 1 << 20
"""Weights of a packed tensor that C++ rounds at a time."""
READ = 1 << 25
"""The same of one of floats, whose pages are given back after each."""

Rounded = tuple[np.ndarray, float]
"""Packed rows, and the squared error of the weights over their own square."""


def round_tensor(
    tensor: Tensor,
    qtype: QuantType,
    recipe: Recipe,
    factor: HessianFactor | None,
    device: torch.device,
) -> Rounded:
    """Round a matrix that never stands in memory as float32, and tell its loss.

    Each expert is rounded by the importance of its own inputs, where `factor` has (experts, in).
    To nearest in C++ where that can be, the same bytes as methods/rtn.py. Raises EdgequantError for
    NaN or infinity. Rows that have the type already are copied.
    """
    if (rows := copied_rows(tensor, qtype)) is not None:
        return rows, 0.0
    if factor is not None and factor.importance.ndim > 1:
        factors = map(HessianFactor, factor.importance)
        matrices = (tensor.matrix(expert) for expert in range(tensor.shape[0]))
        each = [
            round_tensor(matrix, qtype, recipe, own, device)
            for matrix, own in zip(matrices, factors, strict=True)
        ]
        losses = [loss for _, loss in each]
        return np.concatenate([rows for rows, _ in each]), float(np.mean(losses))
    if recipe.method.round is rtn and device.type == "cpu" and packs_natively(qtype):
        found = native_tensor(tensor, qtype, factor)
        if found is not None:
            return found
    step = max(1, CHUNK // tensor.cols)
    packed, error, energy = room(tensor, qtype), 0.0, 0.0
    weight_of = torch.ones(tensor.cols, device=device) if factor is None else factor.importance
    for here in batches(tensor.rows, step):
        values = torch.from_numpy(np.array(tensor.decode(here.start, here.stop))).to(device)
        drop_pages([tensor.data])
        check_finite(tensor, values)
        packed[here], rounded = quantize_weight(values, qtype, recipe, factor)
        error += output_error(values - rounded, weight_of)
        energy += output_error(values, weight_of)
    return packed, error / max(energy, 1e-30)


def room(tensor: Tensor, qtype: QuantType) -> np.ndarray:
    """For the packed rows of a tensor in a type, uint8 (rows, row bytes)."""
    return np.empty((tensor.rows, qtype.row_bytes(tensor.cols)), np.uint8)


def packs_natively(qtype: QuantType) -> bool:
    """Whether C++ rounds to this layout and packs it."""
    return qtype.native is not None and qtype.native.rounder.packs


def native_tensor(tensor: Tensor, qtype: QuantType, factor: HessianFactor | None) -> Rounded | None:
    """`round_tensor` in C++, tile by tile; None when a weight is not finite."""
    packed, error, energy = room(tensor, qtype), 0.0, 0.0
    for here, floats in as_floats(tensor):
        packed[here], of_rows, own, finite = native_rows(floats, qtype, factor)
        drop_pages([tensor.data])
        if not finite:
            return None
        error += of_rows
        energy += own
    return packed, error / max(energy, 1e-30)


def as_floats(tensor: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of a tensor at a time, as they lie in memory or decoded, and which they are."""
    stored = tensor.qtype.is_float
    for here in batches(tensor.rows, max(1, (READ if stored else DECODED) // tensor.cols)):
        if stored:
            data = tensor.data[here]
            yield here, Tensor(tensor.name, (len(data), tensor.cols), tensor.qtype, data)
        else:
            yield here, Tensor.dense(tensor.name, tensor.decode(here.start, here.stop))


def native_rows(
    tensor: Tensor, qtype: QuantType, factor: HessianFactor | None
) -> tuple[np.ndarray, float, float, bool]:
    """Packed rows of floats, their squared error, their own square, and whether all are finite."""
    assert qtype.native
    cols = tensor.cols
    importance = None if factor is None else numpy_of(factor.importance).astype(np.float32)
    weight = normalize_importance(np, importance, cols, qtype.size, qtype.floor)
    counted = np.ones(cols, np.float32) if importance is None else importance
    data = np.ascontiguousarray(tensor.data)
    found: tuple[np.ndarray, float, float, bool] = qtype.native.rounder.quantize(
        tensor.qtype.name, data, weight, counted
    )
    return found


def round_layer(
    tensors: Iterable[tuple[str, Tensor]],
    types: Mapping[str, QuantType],
    recipe: Recipe,
    factors: Mapping[str, HessianFactor | None],
    device: torch.device,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every tensor of a layer, packed, and the loss of each linear.

    `tensors`: name within the layer and Tensor, one after the other; `types` and `factors`: linear
    -> block and factor. Norms and biases become F32. Raises EdgequantError for NaN or infinity.
    """
    packed: dict[str, np.ndarray] = {}
    losses: dict[str, float] = {}
    for name, tensor in tensors:
        linear = name.removesuffix(".weight")
        if linear in types:
            packed[name], losses[linear] = round_tensor(
                tensor, types[linear], recipe, factors[linear], device
            )
            if tensor.order is not None and types[linear].ordered:
                packed[order_name(name)] = tensor.order
        else:
            values = np.array(tensor.decode())
            check_finite(tensor, values)
            packed[name] = QUANT_TYPES["F32"].pack(values.reshape(1, -1), {})
    return packed, losses


def tensor_cost(
    shape: Shape, source: int, qtype: QuantType, recipe: Recipe, factored: bool, device: str
) -> Cost:
    """Of `round_tensor` for a matrix of `source` bytes, of which those that are rounded at a time
    are mapped; its result included."""
    cost = weight_cost(shape, recipe, factored, device)
    packed, weights = stored_bytes(qtype, shape), math.prod(shape)
    if not factored and recipe.method.round is rtn and device == "cpu" and packs_natively(qtype):
        rows = min(weights, max(READ, shape[-1])) / weights
        return Cost(memory=packed + int(rows * (source + packed)), flops=cost.flops)
    chunk = min(weights, max(CHUNK, shape[-1]))
    memory = packed + int(source * chunk / weights) + FLOAT * 2 * chunk + cost.memory
    return Cost(memory=memory, flops=cost.flops, seconds=cost.seconds)
