"""The C++ loops of the methods against their torch text: equal to the last bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quantize.methods import METHODS, Rounded, descent, gptq
from quantize.run.data_free import native_tensor, round_tensor
from quantize.run.recipe import Recipe
from runtime.errors import EdgequantError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor
from tests.quantize.methods.cases import LAYOUTS

_native: Any = pytest.importorskip(
    "runtime._native", reason="the kernels are not compiled; run `pip install -e .`"
)

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("native_settings")]
COLS = 512
CPU = torch.device("cpu")
RTN = Recipe(METHODS["rtn"])
layouts = pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)


def weights(rows: int = 37) -> torch.Tensor:
    """Random rows (no multiple of a tile), one of them all zeros, one constant."""
    w = torch.randn(rows, COLS, generator=torch.Generator().manual_seed(3)) * 0.02
    w[3], w[4] = 0.0, 0.5
    return w


def hessian() -> torch.Tensor:
    """Of correlated inputs, one of which is always zero."""
    random = torch.Generator().manual_seed(4)
    x = torch.randn(2 * COLS, COLS, generator=random)
    x = x @ (torch.eye(COLS) + torch.randn(COLS, COLS, generator=random) / COLS**0.5)
    x[:, 17] = 0
    return x.T @ x / len(x)


HESSIAN = hessian()
FACTOR = gptq.factor(HESSIAN)


def in_torch(qtype: QuantType) -> QuantType:
    """The layout with which the methods use their torch text: nothing of it is compiled."""
    plain = type(qtype)()  # a copy would be the registered one
    plain.__dict__["native"] = None
    return plain


def on_every_set(work: Callable[[], Rounded]) -> list[Rounded]:
    """What `work` gives with each instruction set of this processor."""
    found = []
    for instructions in _native.instruction_sets():
        _native.set_instruction_set(instructions)
        found.append(work())
    return found


def assert_same(ours: Rounded, theirs: Rounded) -> None:
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.value.view(torch.int32), theirs.value.view(torch.int32))
    assert ours.params.keys() == theirs.params.keys()
    for key, stored in theirs.params.items():
        assert torch.equal(ours.params[key], stored), key


@layouts
def test_gptq_equals_its_torch_text(qtype: QuantType) -> None:
    assert gptq.runs_native(qtype, weights())
    ours = on_every_set(lambda: gptq.gptq(weights(), qtype, FACTOR))
    expected = gptq.gptq(weights(), in_torch(qtype), FACTOR)
    for found in ours:
        assert_same(found, expected)


@layouts
def test_descent_equals_its_torch_text(qtype: QuantType) -> None:
    start = gptq.gptq(weights(), qtype, FACTOR)
    ours = on_every_set(lambda: descent.descend(weights(), start, qtype, HESSIAN, FACTOR.ridge))
    expected = descent.descend(weights(), start, in_torch(qtype), HESSIAN, FACTOR.ridge)
    assert not torch.equal(expected.codes, start.codes)
    for found in ours:
        assert_same(found, expected)


def test_float64_weights_take_the_torch_text() -> None:
    assert not gptq.runs_native(QUANT_TYPES["Q4_K"], weights().double())
    assert not gptq.runs_native(QUANT_TYPES["F16"], weights())


@layouts
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_plain_rounding_packs_the_bytes_of_the_definition(
    qtype: QuantType, kind: str, weighted: bool
) -> None:
    tensor = Tensor.dense("w", QUANT_TYPES[kind].code(weights().numpy(), 1, 0), kind)
    factor = gptq.HessianFactor(HESSIAN.diagonal().clone()) if weighted else None
    w = tensor.decode()
    importance = factor.importance.numpy() if factor else None
    params = qtype.search(w, importance)
    expected_bytes = qtype.pack(qtype.code(w, *qtype.grid(params)), params)
    for instructions in _native.instruction_sets():
        _native.set_instruction_set(instructions)
        packed, loss = round_tensor(tensor, qtype, RTN, factor, CPU)
        np.testing.assert_array_equal(packed, expected_bytes)
        counted = np.ones(COLS) if importance is None else importance.astype(np.float64)
        miss = qtype.decode(packed).astype(np.float64) - w
        expected = (counted * miss**2).sum() / (counted * w.astype(np.float64) ** 2).sum()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_losses_do_not_depend_on_the_threads() -> None:
    tensor = Tensor.dense("w", weights(333).numpy())
    found = []
    for threads in (1, 2, 3):
        _native.set_threads(threads)
        found.append(round_tensor(tensor, QUANT_TYPES["Q4_K"], RTN, None, CPU)[1])
    assert found[0] == found[1] == found[2]


@layouts
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(qtype: QuantType, bad: float) -> None:
    w = weights().numpy()
    w[20, 300] = bad
    tensor = Tensor.dense("blk.0.attn_q.weight", w)
    for instructions in _native.instruction_sets():
        _native.set_instruction_set(instructions)
        assert native_tensor(tensor, qtype, None) is None
    with pytest.raises(EdgequantError, match="blk.0.attn_q.weight holds 1 NaN or infinite values"):
        round_tensor(tensor, qtype, RTN, None, CPU)


def test_without_a_native_packer_the_definition_rounds() -> None:
    qtype, tensor = QUANT_TYPES["Q4_0"], Tensor.dense("w", weights().numpy())
    packed, loss = round_tensor(tensor, qtype, RTN, None, CPU)
    again, same = round_tensor(tensor, in_torch(qtype), RTN, None, CPU)
    np.testing.assert_array_equal(again, packed)
    assert same == pytest.approx(loss, rel=1e-4)


def test_matrices_that_do_not_belong_together_are_refused() -> None:
    rounder = QUANT_TYPES["Q4_0"].native.rounder
    ones, w = np.ones(COLS, np.float32), weights().numpy()
    with pytest.raises(EdgequantError, match="rows of Q4_0 with 32 columns"):
        rounder.quantize("Q4_0", np.zeros((2, 18), np.uint8), ones[:32], ones[:32])
    with pytest.raises(EdgequantError, match="512 columns of F32 take 2048 bytes a row"):
        rounder.quantize("F32", np.zeros((2, 18), np.uint8), ones, ones)
    codes = np.zeros(w.shape, np.int32)
    with pytest.raises(EdgequantError, match="a window of 512 columns in blocks of 32"):
        rounder.gptq(w, ones, np.eye(COLS, dtype=np.float32), codes, w.copy())
    half = w[:, :64].copy()
    with pytest.raises(EdgequantError, match="does not match its matrices"):
        rounder.gptq(half, ones[:64], np.eye(32, dtype=np.float32), codes[:, :64], half)
    with pytest.raises(EdgequantError, match="a window of 64 columns"):
        square, qtype = np.eye(64, dtype=np.float32), half.T[:32]
        rounder.recode(qtype, qtype, square, 40, codes[:32, :37], qtype.copy(), half.T.copy())
    made_up = _native.Rounder("made up", "symmetric", 32, 32, (-8, 7), [1.0])
    with pytest.raises(EdgequantError, match="made up has no native packer; pack it in Python"):
        made_up.quantize("F32", half.view(np.uint8), ones[:64], ones[:64])
