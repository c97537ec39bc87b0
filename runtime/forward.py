"""The transformer once, against `Ops`: numpy defines it, native runs it, torch calibrates with it.

Shapes: B rows of tokens, T new tokens, S tokens in the cache with the new ones, D hidden,
H heads, K key-value heads, C channels a head, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from runtime.archs import Arch
from runtime.tensor import Tensor

Array = Any
Weight = Any
"""A weight as a backend holds it: what its `load` returned."""


class Ops(Protocol):
    """What a backend must compute. Activations are float32."""

    def load(self, tensor: Tensor) -> Weight:
        """A stored tensor -> the form this backend computes with."""

    def embed(self, weight: Weight, ids: np.ndarray) -> Array:
        """Rows of the embedding: ids (B, T) -> (B, T, D)."""

    def rmsnorm(self, x: Array, weight: Weight, eps: float) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    def matmul(self, x: Array, weight: Weight, bias: Weight | None) -> Array:
        """x (..., in) @ weight (out, in).T + bias -> (..., out)."""

    def rope(self, x: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
        """Rotate the two halves of each head: x (B, T, heads, C), tables (T, C / 2)."""

    def attention(self, q: Array, k: Array, v: Array, start: int) -> Array:
        """Causal attention: q (B, T, H, C) from `start`, k, v (B, S, K, C) -> (B, T, H * C)."""

    def silu_mul(self, gate: Array, up: Array) -> Array:
        """silu(gate) * up."""

    def add(self, x: Array, y: Array) -> Array:
        """x + y."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Room for a KV cache, float32."""

    def numpy(self, x: Array) -> np.ndarray:
        """A result as a numpy array."""


@dataclass
class Cache:
    """Keys and values of the tokens so far, per layer (B, capacity, K, C)."""

    keys: list[Array]
    values: list[Array]
    capacity: int
    length: int = 0

    @staticmethod
    def empty(ops: Ops, arch: Arch, batch: int, capacity: int) -> "Cache":
        """Room for `capacity` tokens."""
        shape = (batch, capacity, arch.kv_heads, arch.head_dim)
        sides = [[ops.zeros(shape) for _ in range(arch.layers)] for _ in range(2)]
        return Cache(sides[0], sides[1], capacity)


@dataclass
class Layer:
    """The weights of one decoder layer by their name within it ("attn_q.weight")."""

    arch: Arch
    weights: Mapping[str, Weight]
    index: int = 0
    tables: tuple[np.ndarray, np.ndarray] = field(default=(np.zeros(0), np.zeros(0)))

    def linear(self, ops: Ops, name: str, x: Array) -> Array:
        """x through the linear `name`, with its bias when it has one."""
        return ops.matmul(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))


def attention_input(ops: Ops, layer: Layer, x: Array) -> Array:
    """What q, k and v read: (B, T, D)."""
    return ops.rmsnorm(x, layer.weights["attn_norm.weight"], layer.arch.eps)


def attention(ops: Ops, layer: Layer, normed: Array, cache: Cache | None) -> Array:
    """What attn_output reads: (B, T, H * C). Without a cache the T tokens are the whole context."""
    arch, (cos, sin) = layer.arch, layer.tables
    batch, tokens = normed.shape[:2]
    q = layer.linear(ops, "attn_q", normed).reshape(batch, tokens, arch.heads, arch.head_dim)
    k = layer.linear(ops, "attn_k", normed).reshape(batch, tokens, arch.kv_heads, arch.head_dim)
    v = layer.linear(ops, "attn_v", normed).reshape(batch, tokens, arch.kv_heads, arch.head_dim)
    q, k = ops.rope(q, cos, sin), ops.rope(k, cos, sin)
    if cache is None:
        return ops.attention(q, k, v, 0)
    start, stop = cache.length, cache.length + tokens
    cache.keys[layer.index][:, start:stop] = k
    cache.values[layer.index][:, start:stop] = v
    return ops.attention(
        q, cache.keys[layer.index][:, :stop], cache.values[layer.index][:, :stop], start
    )


def ffn_input(ops: Ops, layer: Layer, x: Array) -> Array:
    """What ffn_gate and ffn_up read: (B, T, D)."""
    return ops.rmsnorm(x, layer.weights["ffn_norm.weight"], layer.arch.eps)


def ffn(ops: Ops, layer: Layer, normed: Array) -> Array:
    """What ffn_down reads: (B, T, F)."""
    return ops.silu_mul(layer.linear(ops, "ffn_gate", normed), layer.linear(ops, "ffn_up", normed))


def decoder_layer(ops: Ops, layer: Layer, x: Array, cache: Cache | None) -> Array:
    """One layer: (B, T, D) -> (B, T, D)."""
    context = attention(ops, layer, attention_input(ops, layer, x), cache)
    x = ops.add(x, layer.linear(ops, "attn_output", context))
    inner = ffn(ops, layer, ffn_input(ops, layer, x))
    return ops.add(x, layer.linear(ops, "ffn_down", inner))


def logits(ops: Ops, arch: Arch, weights: Mapping[str, Weight], x: Array) -> Array:
    """The last hidden states (B, T, D) -> (B, T, V)."""
    return ops.matmul(
        ops.rmsnorm(x, weights["output_norm.weight"], arch.eps), weights[arch.head], None
    )


def layers(arch: Arch, weights: Mapping[str, Weight]) -> list[Layer]:
    """The model's weights, grouped by decoder layer."""
    groups: list[dict[str, Weight]] = [{} for _ in range(arch.layers)]
    for name, weight in weights.items():
        if name.startswith("blk."):
            _, index, rest = name.split(".", 2)
            groups[int(index)][rest] = weight
    return [Layer(arch, group, index) for index, group in enumerate(groups)]


def forward(
    ops: Ops,
    arch: Arch,
    weights: Mapping[str, Weight],
    decoder: list[Layer],
    ids: np.ndarray,
    cache: Cache | None = None,
    last: bool = False,
) -> Array:
    """Logits (B, T, V) of ids (B, T); `last`: the last token's (B, 1, V). Advances the cache."""
    start = cache.length if cache else 0
    tables = arch.rope.tables(start, start + ids.shape[1], arch.head_dim)
    x = ops.embed(weights["token_embd.weight"], ids)
    for layer in decoder:
        layer.tables = tables
        x = decoder_layer(ops, layer, x, cache)
    if cache:
        cache.length += ids.shape[1]
    return logits(ops, arch, weights, x[:, -1:] if last else x)
