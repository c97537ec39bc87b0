"""Each op of the torch backend against numpy's, on shapes that are not square."""

from typing import Any

import numpy as np
import pytest
import torch

from quantize.checkpoint import Checkpoint
from runtime.backends.numpy import NumpyOps
from runtime.backends.torch import TorchOps, open
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from tests.small_models import assert_near, attention_of

pytestmark = pytest.mark.numeric

RANDOM = np.random.default_rng(0)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest) -> TorchOps:
    return TorchOps(request.param)


def on(ops: TorchOps, x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).to(ops.device)


def check(ops: TorchOps, found: torch.Tensor, expected: np.ndarray) -> None:
    assert_near(ops.numpy(found), expected)


def test_embed(ops: TorchOps) -> None:
    tensor = Tensor.dense("e", values(9, 4), "BF16")
    ids = np.array([[1, 8, 1], [0, 2, 3]], np.int32)
    check(ops, ops.embed(ops.load(tensor), ids), NumpyOps().embed(tensor, ids))


@pytest.mark.parametrize("bias", [True, False])
def test_matmul(ops: TorchOps, bias: bool) -> None:
    tensor, x = Tensor.dense("w", values(5, 7)), values(2, 3, 7)
    added = values(5) if bias else None
    found = ops.matmul(on(ops, x), ops.load(tensor), on(ops, added) if bias else None)
    check(ops, found, NumpyOps().matmul(x, tensor, added))


def test_packed_weights_are_decoded_on_loading(ops: TorchOps) -> None:
    qtype = QUANT_TYPES["INT4_32"]
    weight = values(6, 64)
    tensor = Tensor("w", (6, 64), qtype, qtype.pack(*qtype.quantize(weight)))
    check(ops, ops.load(tensor), tensor.decode())


def test_rmsnorm(ops: TorchOps) -> None:
    x, weight = values(2, 3, 8), values(8)
    expected = NumpyOps().rmsnorm(x, weight, 1e-5)
    check(ops, ops.rmsnorm(on(ops, x), on(ops, weight), 1e-5), expected)


def test_rope(ops: TorchOps) -> None:
    x, angles = values(2, 3, 5, 8), values(3, 4)
    tables = np.cos(angles), np.sin(angles)
    check(ops, ops.rope(on(ops, x), *tables), NumpyOps().rope(x, *tables))


SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 3},
    "soft-cap": {"soft_cap": 0.5},
    "scale": {"scale": 0.5},
}


@pytest.mark.parametrize("facts", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("start", [0, 4])
def test_attention_with_shared_heads(ops: TorchOps, start: int, facts: dict[str, Any]) -> None:
    spec = attention_of(heads=6, kv_heads=2, head_dim=8, **facts)
    q, k, v = values(2, 3, 6, 8), values(2, start + 3, 2, 8), values(2, start + 3, 2, 8)
    found = ops.attention(on(ops, q), on(ops, k), on(ops, v), start, spec)
    check(ops, found, NumpyOps().attention(q, k, v, start, spec))


def test_gated_add_and_zeros(ops: TorchOps) -> None:
    x, y = values(2, 9) * 10, values(2, 9)
    for activation in ("silu", "gelu"):
        expected = NumpyOps().gated(activation, x, y)
        check(ops, ops.gated(activation, on(ops, x), on(ops, y)), expected)
    check(ops, ops.add(on(ops, x), on(ops, y)), x + y)
    check(ops, ops.zeros((2, 3)), np.zeros((2, 3)))


def test_an_engine_keeps_no_graph_for_gradients(tiny: Checkpoint) -> None:
    engine = open(tiny.model())
    cache = engine.new_cache(1, 4)
    engine.logits(np.array([[1, 2]]), cache)
    assert not cache.keys[0].requires_grad
    assert cache.length == 2


def test_a_weight_loaded_in_pieces_is_the_whole(tiny: Checkpoint) -> None:
    tensor = tiny.tensors["token_embd.weight"]
    assert np.array_equal(TorchOps(rows_at_once=1000).load(tensor).numpy(), tensor.decode())
