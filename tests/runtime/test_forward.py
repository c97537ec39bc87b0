"""The forward pass: against a loop that computes one token's attention at a time, and its cache."""

import math
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from runtime.archs.gemma3 import Gemma3Arch
from runtime.backends.numpy import NumpyOps
from runtime.engine import OpsEngine, open_engine
from runtime.forward import layers
from runtime.kv_cache import Cache
from runtime.model import Model
from runtime.rope import Rope
from tests.conftest import CONFIGS
from tests.small_models import assert_near, attention_of

pytestmark = pytest.mark.numeric

BACKENDS = ("numpy", "torch")


def turns(rope: Rope, stop: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the first positions, float64."""
    cos, sin = rope.tables(0, stop, head_dim)
    return cos.astype(np.float64), sin.astype(np.float64)


def slow_logits(model: Model, ids: np.ndarray) -> np.ndarray:
    """One row of ids (T,) -> (T, V), in float64, head by head and token by token."""
    arch = model.arch
    w = {name: tensor.decode().astype(np.float64) for name, tensor in model.tensors.items()}
    gemma = arch.family == "gemma3"
    x = w["token_embd.weight"][ids] * (math.sqrt(arch.hidden) if gemma else 1)
    cos, sin = turns(arch.rope, len(ids), arch.rope_channels)
    still = np.ones_like(cos), np.zeros_like(sin)  # positions are not told

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        size = np.sqrt((values**2).mean(-1, keepdims=True) + arch.eps)
        return values / size * w[name]

    def linear(values: np.ndarray, name: str) -> np.ndarray:
        return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def rotated(head: np.ndarray, position: int, part: str) -> np.ndarray:
        if f"{part}_norm.weight" in w:
            head = norm(head, f"{part}_norm.weight")
        half = arch.rope_channels // 2
        pairs = head[:half] + 1j * head[half : 2 * half]
        turned = pairs * (table[0][position] + 1j * table[1][position])
        return np.concatenate([turned.real, turned.imag, head[2 * half :]])

    for layer in range(arch.layers):
        at = f"blk.{layer}."
        table = still if layer in getattr(arch, "without_rope", ()) else (cos, sin)
        sight = len(ids)
        if isinstance(arch, Gemma3Arch) and layer in arch.windowed:
            table, sight = turns(arch.local_rope, len(ids), arch.head_dim), arch.window or 0
        normed = norm(x, f"{at}attn_norm.weight")
        q, k, v = (linear(normed, f"{at}attn_{part}") for part in "qkv")
        context = np.zeros((len(ids), arch.heads, arch.head_dim))
        for token in range(len(ids)):
            for head in range(arch.heads):
                shared = head // (arch.heads // arch.kv_heads)
                own = slice(head * arch.head_dim, (head + 1) * arch.head_dim)
                kept = slice(shared * arch.head_dim, (shared + 1) * arch.head_dim)
                query = rotated(q[token, own], token, f"{at}attn_q")
                seen = range(max(0, token + 1 - sight), token + 1)
                keys = np.array([rotated(k[past, kept], past, f"{at}attn_k") for past in seen])
                scores = np.exp(keys @ query / np.sqrt(arch.head_dim))
                context[token, head] = scores / scores.sum() @ v[seen, kept]
        y = linear(context.reshape(len(ids), -1), f"{at}attn_output")
        x = x + (norm(y, f"{at}post_attention_norm.weight") if gemma else y)
        normed = norm(x, f"{at}ffn_norm.weight")
        gate, up = linear(normed, f"{at}ffn_gate"), linear(normed, f"{at}ffn_up")
        cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
        active = gate * (1 + np.tanh(cubic)) / 2 if gemma else gate / (1 + np.exp(-gate))
        y = linear(active * up, f"{at}ffn_down")
        x = x + (norm(y, f"{at}post_ffw_norm.weight") if gemma else y)
    return np.asarray(norm(x, "output_norm.weight") @ w[arch.head].T)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_those_of_the_slow_loop(
    name: str, backend: str, random_models: dict[str, Path]
) -> None:
    model = open_checkpoint(random_models[name]).model()
    ids = np.random.default_rng(0).integers(0, 4096, (2, 11))
    found = open_engine(model, backend).logits(ids)
    for row in range(2):
        assert_near(found[row], slow_logits(model, ids[row]))


@pytest.mark.parametrize("name", ["qwen2-yarn", "llama-tied"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_gives_the_logits_of_full_recomputation(
    name: str, backend: str, random_models: dict[str, Path]
) -> None:
    engine = open_engine(open_checkpoint(random_models[name]).model(), backend)
    ids = np.random.default_rng(1).integers(0, 4096, (3, 24))
    whole = engine.logits(ids)
    cache = engine.new_cache(3, 24)
    pieces = [ids[:, :10], ids[:, 10:17], *(ids[:, at : at + 1] for at in range(17, 24))]
    found = np.concatenate([engine.logits(piece, cache) for piece in pieces], axis=1)
    assert_near(found, whole)
    assert cache.length == 24


@pytest.mark.parametrize("backend", BACKENDS)
def test_last_gives_only_the_last_tokens_logits(
    backend: str, random_models: dict[str, Path]
) -> None:
    engine = open_engine(open_checkpoint(random_models["qwen2-tied"]).model(), backend)
    ids = np.arange(12).reshape(2, 6)
    last = engine.logits(ids, last=True)
    assert last.shape == (2, 1, 4096)
    assert_near(last, engine.logits(ids)[:, -1:])


def test_later_tokens_change_nothing_before_them(random_models: dict[str, Path]) -> None:
    engine = open_engine(open_checkpoint(random_models["llama-untied"]).model(), "numpy")
    ids = np.arange(20)[None]
    other = ids.copy()
    other[0, 12:] = 7
    left, right = engine.logits(ids), engine.logits(other)
    assert_near(left[:, :12], right[:, :12])
    assert np.abs(left[:, 12:] - right[:, 12:]).max() > 1e-3


def test_tensors_are_grouped_by_their_layer(random_models: dict[str, Path]) -> None:
    model = open_checkpoint(random_models["qwen2-untied"]).model()
    found = layers(model.arch, dict.fromkeys(model.tensors, "weight"))
    assert [layer.index for layer in found] == [0, 1]
    for layer in found:
        assert "attn_q.bias" in layer.weights
        assert len(layer.weights) == 12


def test_a_cache_has_room_for_every_layer(random_models: dict[str, Path]) -> None:
    arch = open_checkpoint(random_models["qwen2-tied"]).arch
    cache = Cache.empty(NumpyOps(), arch, batch=3, capacity=7)
    assert [keys.shape for keys in cache.keys] == [(3, 7, 2, 16)] * 2
    assert cache.keys[0] is not cache.values[0]
    assert cache.length == 0


def test_large_gates_do_not_overflow() -> None:
    gate = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32)
    found = NumpyOps().gated("silu", gate, np.ones_like(gate))
    np.testing.assert_allclose(found, [0, -0.26894143, 0, 0.7310586, 1e4], rtol=1e-6)


def test_a_large_head_is_decoded_in_pieces(random_models: dict[str, Path]) -> None:
    model = open_checkpoint(random_models["qwen2-untied"]).model()
    ids = np.arange(6)[None]
    whole = OpsEngine(model, NumpyOps()).logits(ids)
    assert_near(OpsEngine(model, NumpyOps(rows_at_once=1000)).logits(ids), whole)


@pytest.mark.parametrize("facts", [{}, {"window": 3}, {"soft_cap": 0.5}, {"scale": 0.5}])
def test_attention_is_that_of_one_head_and_one_token_at_a_time(facts: dict[str, float]) -> None:
    spec = attention_of(heads=4, kv_heads=2, head_dim=8, **facts)
    draw = np.random.default_rng(0)
    q = draw.normal(size=(1, 3, 4, 8)).astype(np.float32)
    k, v = (draw.normal(size=(1, 7, 2, 8)).astype(np.float32) for _ in range(2))
    found = NumpyOps().attention(q, k, v, 4, spec).reshape(3, 4, 8)
    for token in range(3):
        seen = slice(max(0, 4 + token + 1 - facts.get("window", 99)), 4 + token + 1)
        for head in range(4):
            scores = k[0, seen, head // 2] @ q[0, token, head] * facts.get("scale", 8**-0.5)
            if "soft_cap" in facts:
                scores = facts["soft_cap"] * np.tanh(scores / facts["soft_cap"])
            shares = np.exp(scores) / np.exp(scores).sum()
            expected = shares @ v[0, seen, head // 2]
            np.testing.assert_allclose(found[token, head], expected, atol=1e-6)


def test_channels_that_rope_does_not_rotate_stay() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 8)).astype(np.float32)
    cos, sin = Rope().tables(5, 7, 4)
    found = NumpyOps().rope(x, cos, sin)
    assert np.array_equal(found[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(found[..., :4], NumpyOps().rope(x[..., :4], cos, sin))


def test_the_approximation_of_gelu_is_near_the_exact_one() -> None:
    gate = np.linspace(-6, 6, 101).astype(np.float32)
    found = NumpyOps().gated("gelu", gate, np.ones_like(gate))
    exact = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in gate.tolist()]
    np.testing.assert_allclose(found, exact, atol=1e-3)
