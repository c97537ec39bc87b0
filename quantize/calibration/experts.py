"""Experts that few tokens chose: what they learn from.

A router gives each token to a few experts of many, so some see too few tokens for the Hessian of
their inputs to mean anything. Such an expert also learns from a sample of what the others read: the
inputs of its gate and up as they are, those of its down as it makes them itself.
"""

from collections import Counter
from math import ceil
from typing import Protocol

import torch

from quantize.run.cost import FLOAT
from runtime.archs import InputGroup, LayerSpec
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Observer, run_expert

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


class Learner(Protocol):
    """What is told by the tokens of each expert: Hessians."""

    groups: dict[str, InputGroup]
    counts: Counter[str]
    """Tokens that each input group has read."""
    sample: Sample

    def add(self, group: str, x: torch.Tensor, weighed: torch.Tensor) -> None:
        """The next inputs of a group, (tokens, in), also times the weights of their tokens."""


class Lent(Observer):
    """Adds what an expert makes of tokens that it was not given."""

    def __init__(self, to: Learner, groups: set[str]) -> None:
        self.to, self.groups = to, groups

    def read(self, group: str, x: torch.Tensor) -> None:
        if group in self.groups:
            self.to.add(group, x, x)


def lend(to: Learner, ops: TorchOps, layer: Layer) -> list[str]:
    """Let experts that saw too few tokens learn from the sample as well; says how many did."""
    experts = {name: g.expert for name, g in to.groups.items() if g.expert is not None}
    short = {
        name: expert
        for name, expert in experts.items()
        if to.counts[name] < tokens_needed(to.groups[name].width)
    }
    if not short:
        return []
    sample, lent = to.sample.tokens, Lent(to, set(short))
    for expert in dict.fromkeys(short.values()):
        run_expert(ops, layer, expert, sample, lent)
    few, every = len(set(short.values())), len(set(experts.values()))
    return [
        f"{few} of {every} experts saw under {ENOUGH:g} tokens for each channel of an input, and "
        f"learn from {len(sample)} of all tokens as well"
    ]


def sample_bytes(spec: LayerSpec) -> int:
    """Bytes of a sample while its parts are put together."""
    return 2 * FLOAT * 2 * sample_size(spec) * spec.groups[0].width
