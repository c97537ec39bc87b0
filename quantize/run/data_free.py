"""From the bytes of one tensor to packed bytes, some rows at a time."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from quantize.checkpoint import check_finite
from quantize.methods import HessianFactor, output_error
from quantize.methods.rtn import rtn
from quantize.run.act_order import order_name
from quantize.run.copied import copied_rows
from quantize.run.cost import FLOAT, Cost
from quantize.run.pieces import CHUNK, quantize_weight
from quantize.run.recipe import Recipe
from quantize.run.rounding_cost import weight_cost
from runtime.quant_types import QUANT_TYPES, QuantType, normalize_importance, numpy_of
from runtime.tensor import Shape, Tensor, stored_bytes

DECODED = 1 << 20
"""Weights of a packed tensor that C++ rounds at a time."""

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
    parts, error, energy = [], 0.0, 0.0
    weight_of = torch.ones(tensor.cols, device=device) if factor is None else factor.importance
    for start in range(0, tensor.rows, step):
        values = torch.from_numpy(np.array(tensor.decode(start, start + step))).to(device)
        check_finite(tensor, values)
        packed, rounded = quantize_weight(values, qtype, recipe, factor)
        parts.append(packed)
        error += output_error(values - rounded, weight_of)
        energy += output_error(values, weight_of)
    return np.concatenate(parts), error / max(energy, 1e-30)


def packs_natively(qtype: QuantType) -> bool:
    """Whether C++ rounds to this layout and packs it."""
    return qtype.native is not None and qtype.native.rounder.packs


def native_tensor(tensor: Tensor, qtype: QuantType, factor: HessianFactor | None) -> Rounded | None:
    """`round_tensor` in C++, tile by tile; None when a weight is not finite."""
    parts, error, energy = [], 0.0, 0.0
    for floats in as_floats(tensor):
        rows, of_rows, own, finite = native_rows(floats, qtype, factor)
        if not finite:
            return None
        parts.append(rows)
        error += of_rows
        energy += own
    return (np.concatenate(parts) if len(parts) > 1 else parts[0]), error / max(energy, 1e-30)


def as_floats(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as it lies in memory, or one that is packed decoded, some rows at a time."""
    if tensor.qtype.is_float:
        yield tensor
        return
    step = max(1, DECODED // tensor.cols)
    for start in range(0, tensor.rows, step):
        yield Tensor.dense(tensor.name, tensor.decode(start, start + step))


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
    """Of `round_tensor` for a matrix of `source` bytes, which are mapped; its result included."""
    cost = weight_cost(shape, recipe, factored, device)
    packed = stored_bytes(qtype, shape)
    if not factored and recipe.method.round is rtn and device == "cpu" and packs_natively(qtype):
        return Cost(memory=source + packed, flops=cost.flops)
    # values of a chunk come on top, and at the end the parts are put together
    values = FLOAT * 2 * min(math.prod(shape), max(CHUNK, shape[-1]))
    memory = source + packed + max(packed, values + cost.memory)
    return Cost(memory=memory, flops=cost.flops, seconds=cost.seconds)
