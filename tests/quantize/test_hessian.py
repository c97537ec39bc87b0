"""Sums of x^T x that compute only one half."""

from typing import Any

import numpy as np
import pytest
import torch

from quantize.calibration.hessian import Hessians
from quantize.calibration.stream import run
from quantize.calibration.sums import STRIPE, add_gram, mirror
from quantize.checkpoint import bundled, open_checkpoint
from runtime import _native
from runtime.backends.torch import TorchOps
from runtime.errors import EdgequantError
from tests.quantize.layers import embedded, layer_of

pytestmark = pytest.mark.numeric

WIDTHS = [1, 47, 96, STRIPE, STRIPE + 1, 2 * STRIPE + 32]
HAS_PAIRS = "avx512_bf16"
"""The instruction set that adds pairs of bfloat16."""


def inputs(width: int, tokens: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (tokens, width), and the same times a weight of each token."""
    random = torch.Generator().manual_seed(width)
    x = torch.randn(tokens, width, generator=random)
    return torch.rand(tokens, 1, generator=random) * x, x


@pytest.mark.parametrize("width", WIDTHS)
def test_the_mirrored_half_is_the_whole_sum(width: int, exact_products: None) -> None:
    total, expected = torch.zeros(width, width), torch.zeros(width, width, dtype=torch.float64)
    for tokens in (20, 7):
        weighed, x = inputs(width, tokens)
        add_gram(total, weighed, x)
        expected += weighed.double().T @ x.double()
    torch.testing.assert_close(mirror(total).double(), expected, rtol=1e-5, atol=1e-4)


def test_entries_of_the_two_halves_are_equal() -> None:
    weighed, x = inputs(2 * STRIPE)
    total = torch.zeros(2 * STRIPE, 2 * STRIPE)
    add_gram(total, weighed, x)
    mirror(total)
    assert torch.equal(total, total.T)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_batch_that_is_summed_elsewhere_is_added_to_the_same_bits(width: int) -> None:
    here, there = torch.zeros(width, width), torch.zeros(width, width)
    for tokens in (20, 700):  # more than BLAS adds up at once
        weighed, x = inputs(width, tokens)
        add_gram(here, weighed, x)
        batch = torch.zeros(width, width)
        add_gram(batch, weighed, x)
        there += batch
    assert torch.equal(mirror(here), mirror(there))


def test_many_tokens_with_outliers_add_up_to_the_exact_sum(exact_products: None) -> None:
    width, random = 96, torch.Generator().manual_seed(0)
    scale = 1 + 49 * (torch.arange(width) % 24 == 0)  # a channel in 24 is 50 times as large
    total, exact = torch.zeros(width, width), torch.zeros(width, width, dtype=torch.float64)
    for _ in range(16):
        x = scale * (0.3 + torch.randn(2048, width, generator=random))
        add_gram(total, x, x)
        exact += x.double().T @ x.double()
    norms = exact.diagonal().sqrt()
    off = (mirror(total).double() - exact).abs() / (norms[:, None] * norms)
    assert off.max() < 2**-21  # 8 units in the last place of float32


@pytest.mark.skipif(HAS_PAIRS not in _native.instruction_sets(), reason="no bfloat16 pairs here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
def test_pairs_add_up_what_rounding_to_bfloat16_leaves(
    width: int, threads: int, native_settings: None
) -> None:
    _native.set_instruction_set(HAS_PAIRS)
    _native.set_threads(threads)
    total, expected = torch.zeros(width, width), torch.zeros(width, width, dtype=torch.float64)
    for tokens in (20, 7):  # an odd one is left over
        weighed, x = inputs(width, tokens)
        wide = torch.cat([torch.zeros(tokens, 3), x], 1)[:, 3:]  # rows that are not next to others
        assert _native.syrk(total.numpy(), weighed.numpy(), wide.numpy())
        expected += weighed.bfloat16().double().T @ x.bfloat16().double()
    # rounded once with and once without its weight: the other half would be a little different
    expected = mirror(expected.triu())
    torch.testing.assert_close(mirror(total).double(), expected, rtol=1e-5, atol=1e-4)
    unweighed = torch.zeros(width, width)
    assert _native.syrk(unweighed.numpy(), x.numpy(), x.numpy())
    expected = x.bfloat16().double().T @ x.bfloat16().double()
    torch.testing.assert_close(mirror(unweighed).double(), expected, rtol=1e-5, atol=1e-4)


def test_exact_products_and_other_instruction_sets_leave_the_sum_to_blas(
    native_settings: None,
) -> None:
    x, total = np.ones((4, 8), np.float32), np.zeros((8, 8), np.float32)
    _native.set_exact(True)
    assert not _native.syrk(total, x, x)
    _native.set_exact(False)
    _native.set_instruction_set("baseline")
    assert not _native.syrk(total, x, x)
    assert not total.any()


def test_sums_of_another_size_are_refused() -> None:
    x, total = np.ones((4, 8), np.float32), np.zeros((8, 9), np.float32)
    with pytest.raises(EdgequantError, match=r"inputs \(tokens, 8\) do not match each other"):
        _native.syrk(total, x, x)


class Counted(TorchOps):
    """Counts products with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def matmul(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        self.products += 1
        return super().matmul(x, weight, bias)


@pytest.mark.parametrize(
    ("names", "products"),
    [({"attn_qkv"}, 0), ({"attn_output"}, 3), ({"attn_qkv", "ffn_gate_up"}, 4), (None, 6)],
)
def test_a_layer_is_computed_as_far_as_its_inputs_are_wanted(
    names: set[str] | None, products: int
) -> None:
    checkpoint = open_checkpoint(bundled())
    layer = layer_of(checkpoint)
    hidden = embedded(checkpoint, np.arange(24).reshape(2, 12))
    spec, ops = layer.spec, Counted()
    groups = [group for group in spec.groups if names is None or group.name in names]
    looked, taken = (Hessians(spec, ops.device, groups=groups) for _ in range(2))
    run(ops, layer, hidden, None, {}, looked)
    assert ops.products == products, "only what comes before the last input that is wanted"
    run(TorchOps(), layer, hidden, hidden.copy(), {}, taken)
    found, expected = looked.mean(), taken.mean()
    assert found.keys() == expected.keys() == {group.name for group in groups}
    assert all(torch.equal(found[name], expected[name]) for name in found)
