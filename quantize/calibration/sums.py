"""Sums of x x^T over tokens, batch after batch, of which one half is computed.

The product of a batch is whole before it is added: who computes it elsewhere, and adds it later,
has the same sum to the last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from runtime.compiled import kernels, kernels_read

STRIPE = 512
"""Rows of the sum that one product fills: long enough for the product to run at full speed."""


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
    products = left.new_empty(STRIPE * total.shape[1])
    for start in range(0, len(total), STRIPE):
        stripe = total[start : start + STRIPE, start if half else 0 :]
        product = products[: stripe.numel()].view(stripe.shape)
        torch.mm(left[:, start : start + STRIPE].T, right[:, -stripe.shape[1] :], out=product)
        stripe.add_(product)


def stripes(total: torch.Tensor) -> Iterator[torch.Tensor]:
    """What `add_gram` fills of a sum (in, in): rows from a block on the diagonal to the right."""
    for start in range(0, len(total), STRIPE):
        yield total[start : start + STRIPE, start:]


def upper_half(total: torch.Tensor) -> torch.Tensor:
    """The stripes of a sum, one after the other: about half of its numbers."""
    return torch.cat([stripe.flatten() for stripe in stripes(total)])


def add_half(total: torch.Tensor, half: torch.Tensor) -> None:
    """Add an `upper_half` to a sum (in, in)."""
    sizes = [stripe.numel() for stripe in stripes(total)]
    for stripe, numbers in zip(stripes(total), torch.split(half, sizes), strict=True):
        stripe.add_(numbers.view(stripe.shape))


def mirror(total: torch.Tensor) -> torch.Tensor:
    """Fill the lower half of what `add_gram` summed from the upper one, in place."""
    for start in range(0, len(total), STRIPE):
        stop = start + STRIPE
        square = total[start:stop, start:stop]
        square.copy_(square.triu() + square.triu(1).T)
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total
