"""Sums of x^T x over many tokens: only one half of a symmetric matrix is computed.

Where the processor multiplies pairs of bfloat16 faster than BLAS multiplies float32, inputs are
rounded to bfloat16 (runtime/native/pairs.h); sums are float32 everywhere.
"""

import torch

from runtime.compiled import kernels

STRIPE = 512
"""Rows of the sum that one product fills: long enough for the product to run at full speed."""


def add_gram(total: torch.Tensor, weighed: torch.Tensor, x: torch.Tensor) -> None:
    """Add weighed^T x to the upper half of total (in, in), and to blocks along its diagonal.

    x (tokens, in); weighed is x with each token times a number, so that the sum is symmetric.
    """
    every = (total, weighed, x)
    if kernels and kernels_read(*every) and kernels.add_gram(*(a.numpy() for a in every)):
        return
    for start in range(0, len(total), STRIPE):
        here = slice(start, start + STRIPE)
        total[here, start:].addmm_(weighed[:, here].T, x[:, start:])


def kernels_read(*arrays: torch.Tensor) -> bool:
    """Whether C++ can work on tensors: they are float32 on the CPU."""
    return all(a.device.type == "cpu" and a.dtype == torch.float32 for a in arrays)


def mirror(total: torch.Tensor) -> torch.Tensor:
    """Fill the lower half of what `add_gram` summed from the upper one, in place."""
    for start in range(0, len(total), STRIPE):
        stop = start + STRIPE
        square = total[start:stop, start:stop]
        square.copy_(square.triu() + square.triu(1).T)
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total
