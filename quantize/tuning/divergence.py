"""KL(original || target) from what the output heads of both read, and its gradient.

A head may be the largest tensor of a model, so it is decoded some rows at a time for all tokens.
What must be known of all its rows at once is found first: the normalizer of each token's softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibration.stream import batches
from runtime.tensor import Tensor

ROWS = 4096
"""Chunk size in rows of a head, decoded to float32."""
TOKENS = 256
"""Chunk size in tokens, of the logits by these rows."""


@dataclass(frozen=True)
class Head:
    """An output head (V, D) as it lies in a file."""

    tensor: Tensor
    device: torch.device
    rows: int = ROWS
    """Decoded at a time."""

    def pieces(self) -> Iterator[torch.Tensor]:
        """Its rows in order, (v, D) float32."""
        for here in batches(self.tensor.shape[0], self.rows):
            yield torch.from_numpy(np.array(self.tensor.decode(here.start, here.stop))).to(
                self.device
            )


@dataclass(frozen=True)
class Reading:
    """Tokens at the output head of a model."""

    states: torch.Tensor
    """(t, D) float32: what the head reads."""
    head: Head
    normalizer: torch.Tensor
    """(t,): log of the sum of exp(logits)."""


def read(states: torch.Tensor, head: Head, tokens: int = TOKENS) -> Reading:
    """Find the normalizers of states (t, D), of `tokens` at a time."""
    total = torch.full_like(states[:, 0], -torch.inf)
    for rows in head.pieces():
        for here in batches(len(states), tokens):
            logits = states[here] @ rows.T  # (n, v)
            total[here] = torch.logaddexp(total[here], torch.logsumexp(logits, -1))
    return Reading(states, head, total)


def divergence(
    original: Reading,
    target: Reading,
    gradient: torch.Tensor | None = None,
    tokens: int = TOKENS,
) -> torch.Tensor:
    """KL of each token, (t,) float64; its gradient by the target's states is added to `gradient`.

    Every part of the sum is positive: of small divergences nothing is lost to rounding.
    """
    out = torch.zeros_like(target.normalizer, dtype=torch.float64)
    for right, ours in zip(original.head.pieces(), target.head.pieces(), strict=True):
        for here in batches(len(out), tokens):
            log_p = original.states[here] @ right.T - original.normalizer[here, None]  # (n, v)
            log_q = target.states[here] @ ours.T - target.normalizer[here, None]
            out[here] += excess(log_p, log_q).sum(-1, dtype=torch.float64)
            if gradient is not None:
                gradient[here] += (log_q.exp() - log_p.exp()) @ ours
    return out


def excess(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """p log(p / q) - p + q of every entry. It sums to the KL, and none is below 0.

    Where p and q are near, the difference of large terms is taken by expm1 from their ratio.
    """
    p, ratio = log_p.exp(), log_p - log_q
    near = ratio.abs() < 1
    small = torch.where(near, ratio, 0)
    return torch.where(near, p * (small + torch.expm1(-small)), p * ratio - p + log_q.exp())
