"""Weights and inputs that the tests of the methods share."""

from functools import cache

import numpy as np
import torch

from runtime.quant_types import QUANT_TYPES, QuantType

LAYOUTS = [qtype for qtype in QUANT_TYPES.values() if not qtype.is_float]


def case(qtype: QuantType, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A float64 weight (12, in) and correlated inputs (tokens, in) with a few strong channels."""
    width = 2 * qtype.size if qtype.size >= 128 else 160 // qtype.size * qtype.size
    weight, x = arrays(width, seed)
    return torch.from_numpy(weight.copy()), torch.from_numpy(x.copy())


@cache
def arrays(width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for all blocks of a size."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(width, width)) / np.sqrt(width)
    x = random.normal(size=(3 * width, width)) @ (mix + 0.5 * np.eye(width))
    x[:, ::17] *= 6
    return random.normal(size=(12, width)), x
