"""Coordinate descent against a twin that sums the whole quadratic form for every choice."""

import numpy as np
import pytest
import torch

from quantize.methods import Rounded, output_error
from quantize.methods.descent import descend, split
from quantize.methods.gptq import factor, gptq
from quantize.methods.rtn import rtn
from runtime.blocks import BLOCKS, Block, join, numpy_of, to_numpy
from tests.quantize.methods.cases import LAYOUTS, case


def slow_descend(
    weight: torch.Tensor, start: Rounded, block: Block, damped: torch.Tensor
) -> Rounded:
    """One choice at a time, each beside all others as they stand."""
    codes, value = start.codes.clone(), start.value.clone()
    params = split(start.params)
    for index, at in enumerate(range(0, weight.shape[1], block.size)):
        here = slice(at, at + block.size)
        params[index] = slow_scales(weight, value, codes[:, here], params[index], block, damped, at)
        scale, offset = block.grid(params[index])
        value[:, here] = block.value(codes[:, here], scale, offset)
        for column in range(block.size):
            best = None
            for code in range(block.low, block.high + 1):
                one = slice(column, column + 1)
                tried = torch.full_like(codes[:, :1], code)
                trial = value.clone()
                trial[:, at + column] = block.value(tried, scale[:, one], offset[:, one])[:, 0]
                loss = losses(weight - trial, damped)
                if best is None:
                    best, chosen = loss, tried[:, 0]
                chosen = torch.where(loss < best, tried[:, 0], chosen)
                best = torch.minimum(loss, best)
            codes[:, at + column] = chosen
            value[:, here] = block.value(codes[:, here], scale, offset)
    return Rounded(codes, join(params), value)


def slow_scales(weight, value, codes, params, block, damped, at):
    """Least squares of the whole error on the basis, kept row by row where it helps as stored."""
    root = torch.linalg.cholesky(damped)  # |e root|^2 is the form
    basis = block.basis(codes, params)
    rest = weight - value
    rest[:, at : at + block.size] += value[:, at : at + block.size]
    out = {key: part.clone() for key, part in params.items()}
    for row in range(len(weight)):
        vectors = torch.zeros(len(basis), weight.shape[1], dtype=weight.dtype)
        for vector, part in zip(vectors, basis, strict=True):
            vector[at : at + block.size] = part[row]
        found = np.linalg.lstsq((vectors @ root).T.numpy(), (rest[row] @ root).numpy(), rcond=1e-5)
        new_value = block.round_to_stored(torch.from_numpy(found[0]))
        old = torch.stack([params[key][row, 0] for key in block.linear])
        tried = torch.stack([rest[row] - x.to(rest.dtype) @ vectors for x in (new_value, old)])
        if losses(tried, damped)[0] < losses(tried, damped)[1]:
            for key, number in zip(block.linear, new_value, strict=True):
                out[key][row, 0] = number
    return out


def losses(error: torch.Tensor, damped: torch.Tensor) -> torch.Tensor:
    """The quadratic form of each row."""
    return ((error @ damped) * error).sum(1)


SMALL = [block for block in LAYOUTS if block.high - block.low < 32]
"""The twin tries every code, which takes too long for 8 bits."""


@pytest.mark.slow
@pytest.mark.parametrize("block", SMALL, ids=lambda b: b.name)
def test_descent_gives_the_codes_of_the_slow_twin(block: Block) -> None:
    weight, x = case(block)
    weight, hessian = weight[:3], x.T @ x / len(x)
    found = factor(hessian, 0.01)
    start = gptq(weight, block, found)
    fast = descend(weight, start, block, hessian, found.ridge)
    damped = hessian + found.ridge * torch.eye(len(hessian), dtype=x.dtype)
    slow = slow_descend(weight, start, block, damped)
    assert np.array_equal(fast.codes.numpy(), slow.codes.numpy())
    for key, stored in slow.params.items():
        torch.testing.assert_close(fast.params[key], stored, rtol=1e-6, atol=0)


@pytest.mark.parametrize("block", LAYOUTS, ids=lambda b: b.name)
def test_each_pass_lowers_the_error_of_the_outputs_and_can_be_packed(block: Block) -> None:
    weight, x = (part.float() for part in case(block, seed=3))
    hessian = x.T @ x / len(x)
    ridge = 0.01 * float(hessian.diagonal().mean())
    damped = hessian + ridge * torch.eye(len(hessian))
    rounded = rtn(weight, block)
    before = output_error(weight - rounded.value, damped)
    for _ in range(2):
        rounded = descend(weight, rounded, block, hessian, ridge)
        after = output_error(weight - rounded.value, damped)
        assert after < before
        before = after
    packed = block.pack(numpy_of(rounded.codes), to_numpy(rounded.params))
    assert np.array_equal(block.decode(packed), rounded.value.numpy())


def test_columns_without_input_keep_their_nearest_code() -> None:
    block = BLOCKS["Q4_0"]
    weight, x = (part.float() for part in case(block))
    x[:, 5] = 0
    hessian = x.T @ x / len(x)
    found = factor(hessian, 0.01)
    rounded = descend(weight, gptq(weight, block, found), block, hessian, found.ridge)
    scale, offset = block.grid(rounded.params)
    nearest = block.code(weight[:, 5], scale[:, 5], offset[:, 5])
    assert torch.equal(rounded.codes[:, 5], nearest)


def test_rows_descend_independently() -> None:
    block = BLOCKS["Q4_K"]
    weight, x = case(block)
    hessian = x.T @ x / len(x)
    found = factor(hessian, 0.01)
    whole = descend(weight, gptq(weight, block, found), block, hessian, found.ridge)
    parts = [
        descend(part, gptq(part, block, found), block, hessian, found.ridge).codes
        for part in weight.split(5)
    ]
    assert torch.equal(whole.codes, torch.cat(parts))
