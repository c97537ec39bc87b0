"""Sums of x^T x over many tokens: only one half of a symmetric matrix is computed."""

import torch

STRIPE = 512
"""Rows of the sum that one product fills: long enough for the product to run at full speed."""


def add_gram(total: torch.Tensor, weighed: torch.Tensor, x: torch.Tensor) -> None:
    """Add weighed^T x to the upper half of total (in, in), and to blocks along its diagonal.

    x (tokens, in); weighed is x with each token times a number, so that the sum is symmetric.
    """
    for start in range(0, len(total), STRIPE):
        here = slice(start, start + STRIPE)
        total[here, start:].addmm_(weighed[:, here].T, x[:, start:])


def mirror(total: torch.Tensor) -> torch.Tensor:
    """Fill the lower half of what `add_gram` summed from the upper one, in place."""
    for start in range(0, len(total), STRIPE):
        stop = start + STRIPE
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total
