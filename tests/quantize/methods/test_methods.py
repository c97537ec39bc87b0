"""Each method against a slow, obvious twin that must give equal codes."""

import numpy as np
import pytest
import torch

from quantize.methods import METHODS, SingularHessian, awq, gptq
from quantize.methods.rtn import rtn
from runtime.quant_types import QuantType, numpy_of, to_numpy
from tests.quantize.methods.cases import LAYOUTS, case

pytestmark = pytest.mark.numeric


def slow_gptq(
    weight: np.ndarray, hessian: np.ndarray, qtype: QuantType, damp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Optimal brain compression: after each column, remove it from the inverse Hessian."""
    rest = weight.copy()
    damped = hessian + damp * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    inverse, importance = np.linalg.inv(damped), np.zeros(len(hessian))
    inverses = []
    for col in range(len(hessian)):
        inverses.append(inverse.copy())
        importance[col] = 1 / inverse[col, col]
        inverse = inverse - np.outer(inverse[:, col], inverse[col]) / inverse[col, col]
    codes, values = np.zeros(weight.shape, np.int32), np.zeros_like(weight)
    for col in range(weight.shape[1]):
        first = col - col % qtype.size
        if col == first:
            here = slice(first, first + qtype.size)
            params = qtype.fit(
                torch.from_numpy(rest[:, here].copy()), torch.from_numpy(importance[here])
            )
            scale, offset = qtype.grid(params)
        at = slice(col - first, col - first + 1)
        column = torch.from_numpy(rest[:, col : col + 1].copy())
        code = qtype.code(column, scale[:, at], offset[:, at])
        codes[:, col] = numpy_of(code)[:, 0]
        values[:, col] = numpy_of(qtype.value(code, scale[:, at], offset[:, at]))[:, 0]
        error = (rest[:, col] - values[:, col]) / inverses[col][col, col]
        rest[:, col + 1 :] -= np.outer(error, inverses[col][col, col + 1 :])
    return codes, values


@pytest.mark.slow
@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda b: b.name)
def test_gptq_gives_the_codes_of_the_slow_twin(qtype: QuantType) -> None:
    weight, x = case(qtype)
    hessian = x.T @ x / len(x)
    fast = gptq.gptq(weight, qtype, gptq.factor(hessian, 0.01))
    codes, values = slow_gptq(weight.numpy(), hessian.numpy(), qtype, 0.01)
    assert np.array_equal(fast.codes.numpy(), codes)
    # a float32 scale may differ in its last bit
    np.testing.assert_allclose(fast.value.numpy(), values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda b: b.name)
@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_packed_bytes_hold_exactly_the_values_the_method_chose(qtype: QuantType, method) -> None:
    weight, x = case(qtype, seed=1)
    weight, hessian = weight.float(), (x.T @ x / len(x)).float()
    factor = method.factor(hessian, 0.01) if method.factor else None
    rounded = method.round(weight, qtype, factor)
    packed = qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params))
    assert np.array_equal(qtype.decode(packed), rounded.value.numpy())


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda b: b.name)
def test_rtn_takes_the_nearest_point_of_the_grid(qtype: QuantType) -> None:
    weight = case(qtype, seed=2)[0].float()
    rounded = rtn(weight, qtype)
    scale, offset = qtype.grid(rounded.params)
    points = torch.stack(
        [
            qtype.value(torch.full_like(rounded.codes, code), scale, offset)
            for code in range(qtype.low, qtype.high + 1)
        ]
    )
    nearest = (points - weight).abs().min(0).values
    # a tie may go either way, so distances are compared and not codes
    torch.testing.assert_close((rounded.value - weight).abs(), nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 5])
def test_rows_are_rounded_independently(rows_at_once: int) -> None:
    qtype = LAYOUTS[0]
    weight, x = case(qtype)
    factor = gptq.factor(x.T @ x / len(x), 0.01)
    whole = gptq.gptq(weight, qtype, factor).codes
    parts = [gptq.gptq(part, qtype, factor).codes for part in weight.split(rows_at_once)]
    assert torch.equal(whole, torch.cat(parts))


def test_factor_is_a_root_of_the_damped_hessian() -> None:
    _, x = case(LAYOUTS[0])
    hessian = x.T @ x / len(x)
    root = gptq.factor(hessian, 0.02).root
    assert root is not None
    damped = hessian + 0.02 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=x.dtype)
    torch.testing.assert_close(root @ root.T, damped)
    assert torch.equal(root, root.triu())


def test_the_error_of_a_column_without_input_goes_nowhere() -> None:
    _, x = case(LAYOUTS[0])
    x[:, 3] = 0
    factor = gptq.factor(x.T @ x / len(x), 0.01)
    assert factor.importance[3] == 0
    assert factor.root is not None
    assert not factor.root[3, 4:].any()
    assert not factor.root[:3, 3].any()


def test_damping_grows_until_the_hessian_can_be_factored() -> None:
    # slightly indefinite, as float32 sums of few tokens can be
    hessian = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.05]))
    assert gptq.factor(hessian, 0.01).damp == pytest.approx(0.1)


def bad_hessian(value: float) -> torch.Tensor:
    """A good one but for one pair of channels."""
    hessian = torch.eye(4)
    hessian[3, 1] = hessian[1, 3] = value
    return hessian


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, 4), torch.full((4, 4), torch.nan), bad_hessian(torch.nan)]
)
def test_a_hessian_that_stays_singular_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(SingularHessian):
        gptq.factor(bad, 0.01)


def slow_awq(
    weights: list[torch.Tensor], qtype: QuantType, x: torch.Tensor, steps: int
) -> torch.Tensor:
    """Try each exponent on the real outputs of the real inputs."""
    size = x.square().mean(0).sqrt()
    best, least = torch.ones_like(size), float("inf")
    for step in range(steps):
        scale = (size ** (step / steps)).clone()
        scale = (scale / scale.log().mean().exp()).clamp(1 / awq.LARGEST, awq.LARGEST)
        loss = 0.0
        for weight in weights:
            params = qtype.fit(weight * scale, size**2 / scale**2)
            grid = qtype.grid(params)
            stored = qtype.value(qtype.code(weight * scale, *grid), *grid).double()
            loss += float(((x / scale) @ stored.T - x @ weight.T).square().sum())
        if loss < least:
            best, least = scale, loss
    return best


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda b: b.name)
def test_awq_picks_the_scales_of_the_slow_twin(qtype: QuantType) -> None:
    weight, x = case(qtype, seed=3)
    weights = [weight, weight.flip(1) * 2]
    hessian = x.T @ x / len(x)
    found = awq.scales(weights, [qtype, qtype], hessian, steps=6)
    torch.testing.assert_close(found, slow_awq(weights, qtype, x, steps=6))


def test_awq_scales_never_underflow_half_precision() -> None:
    hessian = torch.diag(torch.tensor([1e-30, 1.0, 1e30, 0.0]))
    for exponent in (0.5, 0.95):
        scale = awq.candidate(hessian, exponent)
        assert scale.min() >= 1 / awq.LARGEST
        assert scale.max() <= awq.LARGEST
        assert (1e-4 / scale).half().gt(0).all()
