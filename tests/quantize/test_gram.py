"""Sums of x^T x that compute only one half."""

import pytest
import torch

from quantize.gram import STRIPE, add_gram, mirror


@pytest.mark.parametrize("width", [1, 96, STRIPE, STRIPE + 1, 2 * STRIPE + 32])
def test_the_mirrored_half_is_the_whole_sum(width: int) -> None:
    random = torch.Generator().manual_seed(width)
    total, expected = torch.zeros(width, width), torch.zeros(width, width, dtype=torch.float64)
    for _ in range(2):
        x = torch.randn(20, width, generator=random)
        tokens = torch.rand(20, 1, generator=random)
        add_gram(total, tokens * x, x)
        expected += (tokens * x).double().T @ x.double()
    torch.testing.assert_close(mirror(total).double(), expected, rtol=1e-5, atol=1e-4)


def test_entries_of_different_stripes_are_mirrored_exactly() -> None:
    x = torch.randn(20, 2 * STRIPE, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(2 * STRIPE, 2 * STRIPE)
    add_gram(total, x, x)
    mirror(total)
    assert torch.equal(total[:STRIPE, STRIPE:], total[STRIPE:, :STRIPE].T)
