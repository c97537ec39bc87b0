"""KL from two heads in pieces, against float64 on whole logits."""

import numpy as np
import pytest
import torch

from quantize.tuning.divergence import ROWS, Head, Reading, divergence, excess, read
from runtime.tensor import Tensor

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def exact(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """KL of each row (t, V) of logits, in float64."""
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (logits, others))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("change", [1e-4, 1e-2, 1.0, 30.0])
def test_small_and_large_divergences_are_exact_and_no_part_is_negative(change: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 20_000, generator=draw)
    others = logits + change * torch.randn(logits.shape, generator=draw)
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(others, -1)
    parts = excess(log_p, log_q)
    assert float(parts.min()) >= 0
    # what float32 keeps of the logarithms, beside their difference
    lost = 2 * torch.finfo(torch.float32).eps * float(log_p.abs().max()) / change
    found, expected = parts.double().sum(-1), exact(logits, others)
    assert torch.allclose(found, expected, rtol=1e-5 + lost, atol=0)


def test_the_plain_sum_of_float32_is_mostly_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 20_000, generator=draw)
    others = logits + 1e-4 * torch.randn(logits.shape, generator=draw)
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(others, -1)
    plain, expected = (log_p.exp() * (log_p - log_q)).sum(-1), exact(logits, others)
    assert float((plain - expected).abs().max()) > float(expected.max())  # why `excess` is there


def test_tokens_that_one_model_rules_out_leave_the_sum_finite() -> None:
    logits, others = torch.tensor([[0.0, -300.0, 5.0]]), torch.tensor([[0.0, 300.0, 5.0]])
    parts = excess(torch.log_softmax(logits, -1), torch.log_softmax(others, -1))
    assert torch.allclose(parts.double().sum(-1), exact(logits, others), rtol=1e-5, atol=0)


def heads(rows: int, width: int, at_once: int = ROWS) -> tuple[Head, Head]:
    """Two that are near."""
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(rows, width)).astype(np.float32)
    other = (weight + 0.05 * draw.normal(size=weight.shape)).astype(np.float32)
    original, target = (Tensor.dense("output.weight", values) for values in (weight, other))
    return Head(original, CPU, at_once), Head(target, CPU, at_once)


def test_a_head_is_decoded_some_rows_at_a_time() -> None:
    head, _ = heads(13, 4, at_once=5)
    pieces = list(head.pieces())
    assert [len(piece) for piece in pieces] == [5, 5, 3]
    assert np.array_equal(torch.cat(pieces).numpy(), head.tensor.decode())


def test_pieces_add_up_to_the_divergence_of_whole_heads_and_its_gradient() -> None:
    original, target = heads(13, 4, at_once=5)
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(7, 4, generator=draw)
    moved = states + 0.1 * torch.randn(states.shape, generator=draw)
    readings = read(states, original, tokens=3), read(moved, target, tokens=3)
    gradient = torch.zeros_like(moved)
    found = divergence(*readings, gradient, tokens=3)

    leaf = moved.double().requires_grad_()
    right, ours = (torch.from_numpy(h.tensor.decode()).double() for h in (original, target))
    expected = exact(states.double() @ right.T, leaf @ ours.T)
    assert torch.allclose(found, expected.detach(), rtol=1e-5)
    by = torch.autograd.grad(expected.sum(), leaf)[0]
    assert torch.allclose(gradient.double(), by, rtol=1e-4, atol=1e-6)
    assert torch.equal(divergence(*readings, tokens=3), found)


def test_the_same_model_diverges_by_nothing() -> None:
    head, _ = heads(13, 4)
    reading = read(torch.ones(2, 4), head)
    assert isinstance(reading, Reading)
    assert divergence(reading, reading).tolist() == [0, 0]
