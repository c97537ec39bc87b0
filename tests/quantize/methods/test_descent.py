"""Coordinate descent against a twin that sums the whole quadratic form for every choice."""

import numpy as np
import pytest
import torch

from quantize.methods import Rounded, output_error
from quantize.methods.descent import descend, split
from quantize.methods.gptq import factor, gptq
from quantize.methods.rtn import rtn
from runtime.quant_types import QUANT_TYPES, QuantType, join, numpy_of, to_numpy
from tests.quantize.methods.cases import LAYOUTS, case

pytestmark = pytest.mark.numeric


def slow_descend(
    weight: torch.Tensor, start: Rounded, qtype: QuantType, damped: torch.Tensor
) -> Rounded:
    """One choice at a time, each beside all others as they stand."""
    codes, value = start.codes.clone(), start.value.clone()
    params = split(start.params)
    for index, at in enumerate(range(0, weight.shape[1], qtype.size)):
        here = slice(at, at + qtype.size)
        params[index] = slow_scales(weight, value, codes[:, here], params[index], qtype, damped, at)
        scale, offset = qtype.grid(params[index])
        value[:, here] = qtype.value(codes[:, here], scale, offset)
        for column in range(qtype.size):
            best = None
            for code in range(qtype.low, qtype.high + 1):
                one = slice(column, column + 1)
                tried = torch.full_like(codes[:, :1], code)
                trial = value.clone()
                trial[:, at + column] = qtype.value(tried, scale[:, one], offset[:, one])[:, 0]
                loss = losses(weight - trial, damped)
                if best is None:
                    best, chosen = loss, tried[:, 0]
                chosen = torch.where(loss < best, tried[:, 0], chosen)
                best = torch.minimum(loss, best)
            codes[:, at + column] = chosen
            value[:, here] = qtype.value(codes[:, here], scale, offset)
    return Rounded(codes, join(params), value)


def slow_scales(weight, value, codes, params, qtype, damped, at):
    """Least squares of the whole error on the basis, kept row by row where it helps as stored."""
    root = torch.linalg.cholesky(damped)  # |e root|^2 is the form
    basis = qtype.basis(codes, params)
    rest = weight - value
    rest[:, at : at + qtype.size] += value[:, at : at + qtype.size]
    out = {key: part.clone() for key, part in params.items()}
    for row in range(len(weight)):
        vectors = torch.zeros(len(basis), weight.shape[1], dtype=weight.dtype)
        for vector, part in zip(vectors, basis, strict=True):
            vector[at : at + qtype.size] = part[row]
        found = np.linalg.lstsq((vectors @ root).T.numpy(), (rest[row] @ root).numpy(), rcond=1e-5)
        new_value = qtype.round_to_stored(torch.from_numpy(found[0]))
        old = torch.stack([params[key][row, 0] for key in qtype.linear])
        tried = torch.stack([rest[row] - x.to(rest.dtype) @ vectors for x in (new_value, old)])
        if losses(tried, damped)[0] < losses(tried, damped)[1]:
            for key, number in zip(qtype.linear, new_value, strict=True):
                out[key][row, 0] = number
    return out


def losses(error: torch.Tensor, damped: torch.Tensor) -> torch.Tensor:
    """The quadratic form of each row."""
    return ((error @ damped) * error).sum(1)


SMALL = [qtype for qtype in LAYOUTS if qtype.high - qtype.low < 32]
"""The twin tries every code, which takes too long for 8 bits."""


@pytest.mark.slow
@pytest.mark.parametrize("qtype", SMALL, ids=lambda b: b.name)
def test_descent_gives_the_codes_of_the_slow_twin(qtype: QuantType) -> None:
    weight, x = case(qtype)
    weight, hessian = weight[:3], x.T @ x / len(x)
    found = factor(hessian, 0.01)
    start = gptq(weight, qtype, found)
    fast = descend(weight, start, qtype, hessian, found.ridge)
    damped = hessian + found.ridge * torch.eye(len(hessian), dtype=x.dtype)
    slow = slow_descend(weight, start, qtype, damped)
    assert np.array_equal(fast.codes.numpy(), slow.codes.numpy())
    for key, stored in slow.params.items():
        torch.testing.assert_close(fast.params[key], stored, rtol=1e-6, atol=0)


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda b: b.name)
def test_each_pass_lowers_the_error_of_the_outputs_and_can_be_packed(qtype: QuantType) -> None:
    weight, x = (part.float() for part in case(qtype, seed=3))
    hessian = x.T @ x / len(x)
    ridge = 0.01 * float(hessian.diagonal().mean())
    damped = hessian + ridge * torch.eye(len(hessian))
    rounded = rtn(weight, qtype)
    before = output_error(weight - rounded.value, damped)
    for _ in range(2):
        rounded = descend(weight, rounded, qtype, hessian, ridge)
        after = output_error(weight - rounded.value, damped)
        assert after < before
        before = after
    packed = qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params))
    assert np.array_equal(qtype.decode(packed), rounded.value.numpy())


def test_columns_without_input_keep_their_nearest_code() -> None:
    qtype = QUANT_TYPES["Q4_0"]
    weight, x = (part.float() for part in case(qtype))
    x[:, 5] = 0
    hessian = x.T @ x / len(x)
    found = factor(hessian, 0.01)
    rounded = descend(weight, gptq(weight, qtype, found), qtype, hessian, found.ridge)
    scale, offset = qtype.grid(rounded.params)
    nearest = qtype.code(weight[:, 5], scale[:, 5], offset[:, 5])
    assert torch.equal(rounded.codes[:, 5], nearest)


def test_rows_descend_independently() -> None:
    qtype = QUANT_TYPES["Q4_K"]
    weight, x = case(qtype)
    hessian = x.T @ x / len(x)
    found = factor(hessian, 0.01)
    whole = descend(weight, gptq(weight, qtype, found), qtype, hessian, found.ridge)
    parts = [
        descend(part, gptq(part, qtype, found), qtype, hessian, found.ridge).codes
        for part in weight.split(5)
    ]
    assert torch.equal(whole.codes, torch.cat(parts))
