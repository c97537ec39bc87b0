"""Sums, Cholesky factors and solutions that are the same bits for any number of threads.

Torch and LAPACK split a sum of many numbers and a factoring by the number of threads, and each
split adds up in another order. Here one thread sums, and one factors a block on the diagonal; all
else is products of matrices, of which a number is summed by one thread, however many share the
work; but for those with few columns, which one thread computes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

BLOCK = 256
"""Rows and columns that one thread factors at a time."""
PANEL = 512
"""Columns that a product changes at a time: what lies above the diagonal is not computed."""
NARROW = 64
"""MKL shares products with fewer columns than that by terms of their sums."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread within, and as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def sum_of(values: torch.Tensor) -> float:
    """The sum of all numbers, in one order."""
    with one_thread():
        return float(values.sum())


def mean_size(values: torch.Tensor) -> float:
    """The geometric mean of positive numbers; 1 of none."""
    return math.exp(sum_of(values.log()) / len(values)) if len(values) else 1.0


def factor_in_place(matrix: torch.Tensor) -> bool:
    """Turn the lower half of a symmetric (n, n) into L, with L L^T the matrix, and the rest into 0.

    False where it is not positive definite; what it holds then is of no use.
    """
    for start in range(0, len(matrix), BLOCK):
        stop = min(start + BLOCK, len(matrix))
        square = matrix[start:stop, start:stop]
        below = matrix[stop:, start:stop]
        with one_thread():
            lower, failed = torch.linalg.cholesky_ex(square)
            if int(failed):
                return False
            square.copy_(lower)
            below.copy_(torch.linalg.solve_triangular(lower.T, below, upper=True, left=False))
        for first in range(stop, len(matrix), PANEL):
            last = min(first + PANEL, len(matrix))
            columns = below[first - stop : last - stop].T
            subtract_product(matrix[first:, first:last], below[first - stop :], columns)
    matrix.tril_()
    return True


def solve_in_place(lower: torch.Tensor, right: torch.Tensor) -> None:
    """Turn right (n, columns) into x with L L^T x = right, for a lower triangle L (n, n)."""
    blocks = [slice(at, min(at + BLOCK, len(lower))) for at in range(0, len(lower), BLOCK)]
    for here in blocks:
        solve_block(lower[here, here], right[here], upper=False)
        subtract_product(right[here.stop :], lower[here.stop :, here], right[here])
    for here in reversed(blocks):
        solve_block(lower[here, here].T, right[here], upper=True)
        subtract_product(right[: here.start], lower[here, : here.start].T, right[here])


def solve_block(triangle: torch.Tensor, right: torch.Tensor, upper: bool) -> None:
    """Turn right (n, columns) into x with `triangle` (n, n) times x it, by one thread."""
    with one_thread():
        right.copy_(torch.linalg.solve_triangular(triangle, right, upper=upper))


def subtract_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Take left (n, m) times right (m, columns) from total (n, columns), in place."""
    with one_thread() if min(total.shape) < NARROW else nullcontext():
        total.addmm_(left, right, alpha=-1)
