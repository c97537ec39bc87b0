"""The transformer once, against `Ops`: numpy defines it, native runs it, torch calibrates with it.

What a layer computes is read from its ops (runtime/archs/layer.py).

Shapes: B rows of tokens, T new tokens, S tokens in the cache with the new ones, D hidden,
H heads, K key-value heads, C channels a head, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.archs import Activation, Arch, Attention, GatedMLP, LayerSpec, MoE, Norm, Residual
from runtime.archs.layer import EXPERTS, ROUTER
from runtime.kv_cache import Cache
from runtime.positions import Positions as Positions  # who calls a layer needs them as well
from runtime.scores import scored
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
        """Rotate the two halves of each head's first R channels: x (B, T, heads, C), tables
        (T, R / 2)."""

    def attention(self, q: Array, k: Array, v: Array, start: int, spec: Attention) -> Array:
        """Causal attention: q (B, T, H, C) from `start`, k, v (B, S, K, C) -> (B, T, H * C)."""

    def gated(self, activation: Activation, gate: Array, up: Array) -> Array:
        """activation(gate) * up."""

    def add(self, x: Array, y: Array) -> Array:
        """x + y."""

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x))."""

    def route(self, scores: Array, top_k: int, normalized: bool) -> tuple[Array, np.ndarray]:
        """Softmax of a router's scores (N, experts): the `top_k` largest shares of each token,
        made to sum to 1 where `normalized`, and their experts: two (N, top_k)."""

    def expert(self, weight: Weight, index: int) -> Weight:
        """The matrix of one expert of a weight (experts, out, in)."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Room for a KV cache, float32."""

    def numpy(self, x: Array) -> np.ndarray:
        """A result as a numpy array."""


class Observer:
    """Told what passes through the linears of a layer while it computes; this one ignores it."""

    until: str | None = None
    """The last input group that it wants to see; None = it wants to see the whole layer."""

    def read(self, group: str, x: Array) -> None:
        """The linears of an input group are about to read x (B, T, in)."""

    def wrote(self, linear: str, y: Array) -> None:
        """A linear wrote y (B, T, out), its bias included; of expert 3's part of "ffn_down_exps",
        "ffn_down_exps.3", y (n, out)."""

    def routed(self, tokens: np.ndarray) -> None:
        """What follows is one expert's, for these tokens (n,) of B * T: it reads x (n, in)."""


NOBODY = Observer()


@dataclass
class Layer:
    """What a decoder layer computes, and its weights by their name within it ("attn_q.weight")."""

    spec: LayerSpec
    weights: Mapping[str, Weight]
    index: int = 0


def decoder_layer(
    ops: Ops,
    layer: Layer,
    x: Array,
    positions: Positions,
    cache: Cache | None = None,
    observer: Observer = NOBODY,
) -> Array:
    """One layer: (B, T, D) -> (B, T, D). Without a cache the T tokens are the whole context."""
    y = x
    step = _Step(ops, layer, positions, cache, observer)
    for op in layer.spec.ops:
        match op:
            case Norm():
                y = step.norm(op, y)
            case Attention():
                y = step.attention(op, y)
            case GatedMLP():
                y = step.mlp(op, y)
            case MoE():
                y = step.moe(op, y)
            case Residual():
                x = y = step.residual(op, x, y)
    return x


@dataclass(frozen=True)
class _Step:
    """A layer at some positions."""

    ops: Ops
    layer: Layer
    positions: Positions
    cache: Cache | None
    observer: Observer

    def norm(self, op: Norm, x: Array) -> Array:
        """x (..., width) -> the same shape."""
        return self.ops.rmsnorm(x, self.layer.weights[f"{op.name}.weight"], op.eps)

    def linear(self, name: str, x: Array) -> Array:
        """x (B, T, in) through a linear, with its bias when it has one."""
        weights = self.layer.weights
        y = self.ops.matmul(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        self.observer.wrote(name, y)
        return y

    def attention(self, op: Attention, x: Array) -> Array:
        """x (B, T, D) -> (B, T, D)."""
        batch, tokens = x.shape[:2]
        self.observer.read("attn_qkv", x)
        q = self.linear(op.q.name, x).reshape(batch, tokens, op.heads, op.head_dim)
        k = self.linear(op.k.name, x).reshape(batch, tokens, op.kv_heads, op.head_dim)
        v = self.linear(op.v.name, x).reshape(batch, tokens, op.kv_heads, op.head_dim)
        q = self.norm(op.q_norm, q) if op.q_norm else q
        k = self.norm(op.k_norm, k) if op.k_norm else k
        if tables := self.positions.tables(op):
            q, k = self.ops.rope(q, *tables), self.ops.rope(k, *tables)
        start = 0
        if self.cache is not None:
            start, k, v = self.cache.keep(self.ops, op, self.layer.index, k, v)
        context = self.ops.attention(q, k, v, start, op)
        self.observer.read("attn_output", context)
        return self.linear(op.output.name, context)

    def mlp(self, op: GatedMLP, x: Array, group: str = "ffn") -> Array:
        """x (B, T, D) -> (B, T, D); `group` starts the names of its input groups."""
        self.observer.read(f"{group}_gate_up", x)
        gate, up = self.linear(op.gate.name, x), self.linear(op.up.name, x)
        inner = self.ops.gated(op.activation, gate, up)
        self.observer.read(f"{group}_down", inner)
        return self.linear(op.down.name, inner)

    def moe(self, op: MoE, x: Array) -> Array:
        """x (B, T, D) -> (B, T, D); an expert computes the tokens that the router gave it."""
        flat = x.reshape(-1, x.shape[-1])
        self.observer.read(ROUTER, x)
        shares, chosen = self.ops.route(self.linear(op.router.name, flat), op.top_k, op.normalized)
        out = self.ops.zeros(tuple(flat.shape))
        for expert in np.unique(chosen):
            rows, places = np.nonzero(chosen == expert)
            self.observer.routed(rows)
            y = self.expert(op.experts, int(expert), flat[rows])
            out[rows] = out[rows] + shares[rows, places][:, None] * y
        if op.shared:
            self.observer.read("ffn_shared_gate", x)
            y = self.mlp(op.shared, flat, "ffn_shared")
            gate = op.shared_gate
            out = out + (self.ops.sigmoid(self.linear(gate.name, flat)) * y if gate else y)
        return out.reshape(x.shape)

    def expert(self, op: GatedMLP, index: int, x: Array) -> Array:
        """x (n, D) through one expert: (n, D)."""

        def linear(name: str, x: Array) -> Array:
            weight = self.ops.expert(self.layer.weights[f"{name}.weight"], index)
            y = self.ops.matmul(x, weight, None)
            self.observer.wrote(f"{name}.{index}", y)
            return y

        self.observer.read(f"{EXPERTS}_gate_up.{index}", x)
        inner = self.ops.gated(op.activation, linear(op.gate.name, x), linear(op.up.name, x))
        self.observer.read(f"{EXPERTS}_down.{index}", inner)
        return linear(op.down.name, inner)

    def residual(self, op: Residual, x: Array, y: Array) -> Array:
        """The stream x with y added to it, (B, T, D)."""
        y = self.norm(op.post_norm, y) if op.post_norm else y
        return self.ops.add(x, y if op.multiplier == 1.0 else op.multiplier * y)


def run_expert(ops: Ops, layer: Layer, index: int, x: Array, observer: Observer) -> Array:
    """x (n, D) through one expert of a layer that has them: (n, D)."""
    assert layer.spec.mixture
    step = _Step(ops, layer, Positions(0, 0), None, observer)
    return step.expert(layer.spec.mixture.experts, index, x)


def embed(ops: Ops, arch: Arch, weights: Mapping[str, Weight], ids: np.ndarray) -> Array:
    """ids (B, T) -> the states before the first layer (B, T, D)."""
    x = ops.embed(weights["token_embd.weight"], ids)
    return x if arch.embedding_scale == 1.0 else x * np.float32(arch.embedding_scale)


def logits(ops: Ops, arch: Arch, weights: Mapping[str, Weight], x: Array) -> Array:
    """The last hidden states (B, T, D) -> (B, T, V); of a model that scores, (B, T, labels)."""
    normed = ops.rmsnorm(x, weights["output_norm.weight"], arch.eps)
    if arch.score_head:
        return scored(ops, arch.score_head, weights, normed)
    return ops.matmul(normed, weights[arch.head], None)


def layers(arch: Arch, weights: Mapping[str, Weight]) -> list[Layer]:
    """The model's weights, grouped by decoder layer."""
    groups: list[dict[str, Weight]] = [{} for _ in range(arch.layers)]
    for name, weight in weights.items():
        if name.startswith("blk."):
            _, index, rest = name.split(".", 2)
            groups[int(index)][rest] = weight
    return [Layer(arch.layer(index), group, index) for index, group in enumerate(groups)]


def forward(
    ops: Ops,
    arch: Arch,
    weights: Mapping[str, Weight],
    decoder: list[Layer],
    ids: np.ndarray,
    cache: Cache | None = None,
    last: bool = False,
    positions: Positions | None = None,
) -> Array:
    """Logits or scores (B, T, V) of ids (B, T); `last`: the last token's. Advances the cache.

    `positions`: where the tokens stand, if not one after the other behind those of the cache.
    """
    start = cache.length if cache else 0
    positions = positions or Positions(start, start + ids.shape[1])
    x = positions.filled(ops, embed(ops, arch, weights, ids))
    for layer in decoder:
        x = decoder_layer(ops, layer, x, positions, cache)
    if cache:
        cache.length += ids.shape[1]
    return logits(ops, arch, weights, x[:, -1:] if last else x)
