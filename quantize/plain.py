"""Rounding to nearest without calibration: from the checkpoint's bytes to packed bytes."""

from collections.abc import Mapping

import numpy as np
import torch

from quantize.calibrate import Recipe, quantize_weight, relative_error
from quantize.checkpoint import check_finite
from quantize.methods import METHODS, Factor
from runtime.blocks import BLOCKS, Block, numpy_of, shares
from runtime.tensor import Tensor

Rounded = tuple[np.ndarray, float]
"""Packed rows, and the squared error of the weights over their own square."""


def round_tensor(
    tensor: Tensor, block: Block, factor: Factor | None, device: torch.device
) -> Rounded:
    """Round a matrix to the nearest points of its fitted grid, importance from the factor if any.

    In C++ where that can be, else through quantize/methods/rtn.py: the same bytes. Raises
    EdgequantError for NaN or infinity.
    """
    if device.type == "cpu" and block.native is not None and block.native.rounder.packs:
        found = native_tensor(tensor, block, factor)
        if found is not None:
            return found
    values = torch.from_numpy(np.array(tensor.decode())).to(device)
    check_finite(tensor, values)
    packed, rounded = quantize_weight(values, block, Recipe(METHODS["rtn"]), factor)
    return packed, relative_error(values, rounded, factor.importance if factor else None)


def native_tensor(tensor: Tensor, block: Block, factor: Factor | None) -> Rounded | None:
    """`round_tensor` in C++, tile by tile; None when a weight is not finite."""
    assert block.native
    cols = tensor.shape[1]
    importance = None if factor is None else numpy_of(factor.importance).astype(np.float32)
    weight = shares(np, importance, cols, block.size, block.floor)
    counted = np.ones(cols, np.float32) if importance is None else importance
    data = np.ascontiguousarray(tensor.data)
    packed, error, energy, finite = block.native.rounder.quantize(
        tensor.block.name, data, weight, counted
    )
    return (packed, error / max(energy, 1e-30)) if finite else None


def round_layer(
    tensors: Mapping[str, Tensor],
    types: Mapping[str, Block],
    factors: Mapping[str, Factor | None],
    device: torch.device,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every tensor of a layer, packed, and the loss of each linear.

    `tensors`: name within the layer -> Tensor; `types` and `factors`: linear -> block and factor.
    Norms and biases become F32. Raises EdgequantError for NaN or infinity.
    """
    packed: dict[str, np.ndarray] = {}
    losses: dict[str, float] = {}
    for name, tensor in tensors.items():
        linear = name.removesuffix(".weight")
        if linear in types:
            packed[name], losses[linear] = round_tensor(
                tensor, types[linear], factors[linear], device
            )
        else:
            values = np.array(tensor.decode())
            check_finite(tensor, values)
            packed[name] = BLOCKS["F32"].pack(values.reshape(1, -1), {})
    return packed, losses
