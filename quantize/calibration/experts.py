"""Experts that few tokens chose: what they learn from.

A router gives each token to a few experts of many, so some see too few tokens for the Hessian of
their inputs to mean anything. Such an expert also learns from a sample of what the others read: the
inputs of its gate and up as they are, those of its down as it makes them itself.
"""

from math import ceil

import torch

from quantize.run.cost import FLOAT
from runtime.archs import LayerSpec

ENOUGH = 2.0
"""Tokens that an expert needs for each channel of an input; measured by bench/moe.py."""


def tokens_needed(width: int) -> int:
    """How many tokens must have been read through an input of so many channels."""
    return ceil(ENOUGH * width)


def sample_size(spec: LayerSpec) -> int:
    """Tokens of a layer that are kept for its experts; 0 without any."""
    widths = [group.width for group in spec.groups if group.expert is not None]
    return tokens_needed(max(widths)) if widths else 0


class Sample:
    """Tokens at equal distances among `total` of what a layer's router read."""

    def __init__(self, spec: LayerSpec, total: int) -> None:
        size = sample_size(spec)
        self.every = max(1, total // size) if size else 0
        self.parts: list[torch.Tensor] = []

    def add(self, x: torch.Tensor) -> None:
        """x (tokens, D): the next ones."""
        if self.every:
            self.parts.append(x[:: self.every].clone())

    @property
    def tokens(self) -> torch.Tensor:
        """(n, D)"""
        return torch.cat(self.parts)


def sample_bytes(spec: LayerSpec) -> int:
    """Bytes of a sample while its parts are put together."""
    return 2 * FLOAT * 2 * sample_size(spec) * spec.groups[0].width
