"""The living definition of every op: plain numpy, slow, what other backends are tested against."""

import math

import numpy as np

from runtime.archs import Activation, Attention
from runtime.engine import OpsEngine
from runtime.model import Model
from runtime.tensor import Tensor

ROWS_AT_ONCE = 4096
"""Rows of a weight decoded at a time, so that a large head never stands in memory as float32."""


class NumpyOps:
    """Ops on numpy arrays; 2-D weights stay packed, decoded some rows at a time when used."""

    def __init__(self, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self.rows_at_once = rows_at_once

    def load(self, tensor: Tensor) -> np.ndarray | Tensor:
        return tensor.scaled() if tensor.is_matrix else tensor.decode()

    def embed(self, weight: Tensor, ids: np.ndarray) -> np.ndarray:
        unique, where = np.unique(ids, return_inverse=True)
        return weight.qtype.decode(weight.data[unique])[where.reshape(ids.shape)]

    def rmsnorm(self, x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + np.float32(eps)) * weight

    def matmul(self, x: np.ndarray, weight: Tensor, bias: np.ndarray | None) -> np.ndarray:
        rows = weight.shape[0]
        out = np.empty((*x.shape[:-1], rows), np.float32)
        for start in range(0, rows, self.rows_at_once):
            stop = min(start + self.rows_at_once, rows)
            out[..., start:stop] = x @ self.decode(weight, start, stop).T
        return out if bias is None else out + bias

    def decode(self, weight: Tensor, start: int, stop: int) -> np.ndarray:
        """float32 (stop - start, cols) of a packed weight."""
        return weight.decode(start, stop)

    def rope(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        half = cos.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        cos, sin = cos[:, None, :], sin[:, None, :]
        turned = [first * cos - second * sin, second * cos + first * sin]
        return np.concatenate([*turned, rest], axis=-1)

    def attention(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int, spec: Attention
    ) -> np.ndarray:
        batch, tokens, heads, width = q.shape
        total, kv_heads = k.shape[1:3]
        # (B, K, H / K, T, C): query heads that share a key head stand together
        queries = q.reshape(batch, tokens, kv_heads, heads // kv_heads, width).transpose(
            0, 2, 3, 1, 4
        )
        keys, values = (x.transpose(0, 2, 1, 3)[:, :, None] for x in (k, v))  # (B, K, 1, S, C)
        scores = queries @ keys.swapaxes(-1, -2) * np.float32(spec.scores_scale)
        if spec.soft_cap is not None:
            cap = np.float32(spec.soft_cap)
            scores = cap * np.tanh(scores / cap)
        own = np.arange(start, start + tokens)[:, None]  # (T, 1)
        hidden = np.arange(total) > own  # (T, S)
        if spec.window is not None:
            hidden |= np.arange(total) <= own - spec.window
        scores = np.where(hidden, np.float32(-np.inf), scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = scores / scores.sum(-1, keepdims=True) @ values
        return out.transpose(0, 3, 1, 2, 4).reshape(batch, tokens, heads * width)

    def gated(self, activation: Activation, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        if activation == "gelu":
            inner = np.float32(math.sqrt(2 / math.pi)) * (gate + np.float32(0.044715) * gate**3)
            return np.float32(0.5) * gate * (1 + np.tanh(inner)) * up
        return gate * self.sigmoid(gate) * up

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def sigmoid(self, x: np.ndarray) -> np.ndarray:
        tail = np.exp(-np.abs(x))  # never overflows
        return np.where(x >= 0, 1 / (1 + tail), tail / (1 + tail))

    def route(
        self, scores: np.ndarray, top_k: int, normalized: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        chosen = np.argsort(-shares, axis=-1, kind="stable")[:, :top_k]
        best = np.take_along_axis(shares, chosen, -1)
        return best / best.sum(-1, keepdims=True) if normalized else best, chosen

    def expert(self, weight: Tensor, index: int) -> Tensor:
        rows = weight.shape[-2]
        data = weight.data[index * rows : (index + 1) * rows]
        return Tensor(weight.name, weight.shape[1:], weight.qtype, data)

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x


def open(model: Model) -> OpsEngine:
    """Run a model on plain numpy."""
    return OpsEngine(model, NumpyOps())
