"""Weights and inputs that the tests of the methods share."""

from functools import cache

import numpy as np
import torch

from runtime.blocks import BLOCKS, Block

LAYOUTS = [block for block in BLOCKS.values() if not block.is_float]


def case(block: Block, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A float64 weight (12, in) and correlated inputs (tokens, in) with a few strong channels."""
    width = 2 * block.size if block.size >= 128 else 160 // block.size * block.size
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
