"""Sums of x^T x over tokens, batch after batch, of which one half is computed.

The product of a batch is complete before it is added, by BLAS as by C++ (syrk_bf16.h): whoever
computes it elsewhere, and adds it later, has the same sum to the last bit. It is also closer to the
exact one, as fewer numbers are added to the large total: of 32,768 tokens with 896 channels, 8 of
them 50 times as large, no number is further off than 2.3e-7 * sqrt(H_ii H_jj), and 6.7e-7 where
BLAS adds to the total (`addmm_`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from runtime.compiled import kernels, kernels_read

STRIPE = 512
"""Rows of the sum that one product fills: long enough for the product to run at full speed."""
ACROSS = 4096
"""Columns of the same: 8 MiB, which are in a cache still when they are added."""


@dataclass(frozen=True)
class Sums:
    """What an observer has summed of some batches, to be added to that of the batches before."""

    counts: dict[str, int]
    """Group -> tokens."""
    upper: dict[str, torch.Tensor]
    """Group -> its sum as `upper_half` has it."""


def add_gram(total: torch.Tensor, weighed: torch.Tensor, x: torch.Tensor) -> None:
    """Add weighed^T x to the upper half of total (in, in), and to blocks along its diagonal.

    x (tokens, in); weighed is x with each token times a number, so that the sum is symmetric.
    """
    every = (total, weighed, x)
    if kernels and kernels_read(*every) and kernels.syrk(*(a.numpy() for a in every)):
        return
    add_product(total, weighed, x, half=True)


def add_product(
    total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, half: bool = False
) -> None:
    """Add left^T right to total (rows, cols): of (tokens, rows) and (tokens, cols).

    With `half` only what `add_gram` says.
    """
    rows, cols = total.shape
    room = left.new_empty(STRIPE * min(ACROSS, cols))
    for top in range(0, rows, STRIPE):
        for start in range(top if half else 0, cols, ACROSS):
            down, across = slice(top, top + STRIPE), slice(start, start + ACROSS)
            tile = total[down, across]
            product = room[: tile.numel()].view(tile.shape)
            torch.mm(left[:, down].T, right[:, across], out=product)
            tile.add_(product)


def half_size(width: int) -> int:
    """Numbers of an `upper_half` of a sum (width, width)."""
    return sum(min(STRIPE, width - top) * (width - top) for top in range(0, width, STRIPE))


def stripes(total: torch.Tensor, half: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What `add_gram` fills of a sum (in, in), rows from a block on the diagonal to the right; and
    the place of each stripe in an `upper_half`."""
    stop = 0
    for top in range(0, len(total), STRIPE):
        stripe = total[top : top + STRIPE, top:]
        start, stop = stop, stop + stripe.numel()
        yield stripe, half[start:stop].view(stripe.shape)


def upper_half(total: torch.Tensor) -> torch.Tensor:
    """The stripes of a sum (in, in), one after the other: about half of its numbers."""
    half = total.new_empty(half_size(len(total)))
    for stripe, place in stripes(total, half):
        place.copy_(stripe)
    return half


def add_half(total: torch.Tensor, half: torch.Tensor) -> None:
    """Add an `upper_half` to a sum (in, in)."""
    for stripe, place in stripes(total, half):
        stripe.add_(place)


def mirror(total: torch.Tensor) -> torch.Tensor:
    """Fill the lower half of what `add_gram` summed from the upper one, in place."""
    for start in range(0, len(total), STRIPE):
        stop = start + STRIPE
        square = total[start:stop, start:stop]
        square.copy_(square.triu() + square.triu(1).T)
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total
