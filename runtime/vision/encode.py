"""The forward pass of a vision tower, on numpy: patches to embeddings of the language model.

Shapes: N patches of all images together, W channels of the tower, H heads, C channels a head.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.stored import Expected, Parts, StoredArray, StoredTensors
from runtime.tensor import Tensor
from runtime.vision.image import Patches
from runtime.vision.tower import EPS, THETA, Tower

FLOATS = ("F32", "F16", "BF16")
IGNORED = ".inv_freq"
"""What the name of a buffer ends with that some exporters save."""
ERF = np.frompyfunc(math.erf, 1, 1)

Segments = list[tuple[int, int]]
"""First patch and the one after the last of each part whose patches see each other."""


def tower_tensors(tower: Tower, arrays: Mapping[str, StoredArray]) -> StoredTensors:
    """A tower's tensors by their names in `Tower.shapes`, read when they are asked for.

    Raises EdgequantError for one that is missing, has another shape or type, or is not known.
    """
    shapes = tower.shapes()
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None or found.shape != shape:
            what = "is not there" if found is None else f"has shape {found.shape}, not {shape}"
            raise CorruptFileError(
                f"{name} of the vision tower {what}, as vision_config implies; take "
                "config.json and all shards of one download."
            )
        if found.dtype not in FLOATS:
            raise UnsupportedError(
                f"{name} of the vision tower is {found.dtype}, not F32, F16 or BF16; give a "
                "full-precision checkpoint."
            )
    extra = [name for name in arrays if name not in shapes and not name.endswith(IGNORED)]
    if extra:
        raise UnsupportedError(
            f"the vision tower has {len(extra)} tensors that are not known ({extra[0]}); leaving "
            "them out would change the model."
        )
    whole = {name: Parts(shape, {name: Expected(shape, FLOATS)}) for name, shape in shapes.items()}
    return StoredTensors(whole, arrays)


def encode(tower: Tower, tensors: Mapping[str, Tensor], images: Sequence[Patches]) -> np.ndarray:
    """Embeddings of images, one after the other: (tokens, outputs) float32.

    A weight is decoded when it is used, so that memory holds one of them.
    """
    order, windows = window_order(tower, images)
    patches = np.concatenate([image.values for image in images])  # (N, patch values)
    step = _Step(tower, tensors)
    x = step.matmul("patch_embed.proj", _reordered(patches, order, tower))
    turned = [_reordered(part, order, tower) for part in rope_tables(tower, images)]
    for index in range(tower.depth):
        seen = whole_images(images) if index in tower.full or not tower.window else windows
        name = f"blocks.{index}"
        x = x + step.attention(f"{name}.attn", step.norm(f"{name}.norm1", x), turned, seen)
        x = x + step.mlp(f"{name}.mlp", step.norm(f"{name}.norm2", x))
    merged = step.norm("merger.ln_q", x).reshape(-1, tower.width * tower.merge**2)
    inner = step.linear("merger.mlp.0", merged)
    return step.linear("merger.mlp.2", gelu(inner))[np.argsort(order)]


@dataclass(frozen=True)
class _Step:
    """A tower's tensors, and what is computed with them."""

    tower: Tower
    tensors: Mapping[str, Tensor]

    def values(self, name: str) -> np.ndarray:
        """A tensor in its shape, float32."""
        tensor = self.tensors[name]
        return tensor.decode().reshape(tensor.shape)

    def matmul(self, name: str, x: np.ndarray) -> np.ndarray:
        """x (n, in) through a weight of (out, in) numbers, in any shape: (n, out)."""
        weight = self.values(f"{name}.weight")
        return x @ weight.reshape(len(weight), -1).T

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.matmul(name, x) + self.values(f"{name}.bias")

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """Root mean square, or mean and variance in the older tower."""
        weight = self.values(f"{name}.weight")
        if self.tower.modern:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(EPS)) * weight
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(EPS))
        return x * weight + self.values(f"{name}.bias")

    def attention(
        self, name: str, x: np.ndarray, turned: list[np.ndarray], segments: Segments
    ) -> np.ndarray:
        """x (N, W) -> (N, W); patches of a segment see each other."""
        tower = self.tower
        heads = self.linear(f"{name}.qkv", x).reshape(-1, 3, tower.heads, tower.head_dim)
        q, k = (rotated(heads[:, part], *turned) for part in range(2))
        q, out = q * np.float32(tower.head_dim**-0.5), np.empty_like(q)
        for head in range(tower.heads):
            for start, stop in segments:
                here = slice(start, stop)
                scores = q[here, head] @ k[here, head].T
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                shares = scores / scores.sum(-1, keepdims=True)
                out[here, head] = shares @ heads[here, 2, head]
        return self.linear(f"{name}.proj", out.reshape(len(x), -1))

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        """x (N, W) -> (N, W)."""
        if self.tower.modern:
            gate = self.linear(f"{name}.gate_proj", x)
            inner = gate * sigmoid(gate) * self.linear(f"{name}.up_proj", x)
            return self.linear(f"{name}.down_proj", inner)
        inner = self.linear(f"{name}.fc1", x)
        return self.linear(f"{name}.fc2", inner * sigmoid(np.float32(1.702) * inner))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), which overflows for no x."""
    return (1 + np.tanh(x / 2)) / 2


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the share of a normal distribution below it: no approximation."""
    return x * (1 + np.asarray(ERF(x / np.float32(math.sqrt(2))), np.float32)) / 2


def rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Heads x (N, H, C) with their two halves rotated by tables (N, C / 2)."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rope_tables(tower: Tower, images: Sequence[Patches]) -> list[np.ndarray]:
    """cos and sin of every patch, (N, C / 2) each: half of the angles by its row, half by its
    column."""
    places = np.concatenate([_places(image, tower.merge) for image in images])  # (N, 2)
    angles = (places.astype(np.float32)[:, :, None] * frequencies(tower)).reshape(len(places), -1)
    return [np.cos(angles), np.sin(angles)]


def frequencies(tower: Tower) -> np.ndarray:
    """Angle of each pair of a head's channels for one step down or right: (C / 4,) float32."""
    pairs = tower.head_dim // 4
    return np.asarray(THETA ** -(np.arange(pairs) / pairs), np.float32)


def _places(image: Patches, merge: int) -> np.ndarray:
    """Row and column of each patch, in the order of its patches: (rows * cols, 2)."""
    grid = np.indices((image.rows, image.cols)).transpose(1, 2, 0)
    grid = grid.reshape(image.rows // merge, merge, image.cols // merge, merge, 2)
    return grid.swapaxes(1, 2).reshape(-1, 2)


def whole_images(images: Sequence[Patches]) -> Segments:
    """Each image by itself."""
    return list(_segments([image.rows * image.cols for image in images]))


def window_order(tower: Tower, images: Sequence[Patches]) -> tuple[np.ndarray, Segments]:
    """Tokens window by window, (tokens,), and the patches of each window in this order.

    Windows at the right and at the bottom may be smaller. Without windows the order is as it was.
    """
    found: list[np.ndarray] = []
    lengths: list[int] = []
    first = 0
    for image in images:
        high, wide = image.rows // tower.merge, image.cols // tower.merge
        numbers = first + np.arange(high * wide).reshape(high, wide)
        side = tower.window // (tower.patch * tower.merge) or max(high, wide)
        for row in range(0, high, side):
            for col in range(0, wide, side):
                part = numbers[row : row + side, col : col + side].reshape(-1)
                found.append(part)
                lengths.append(part.size * tower.merge**2)
        first += high * wide
    return np.concatenate(found), list(_segments(lengths))


def _segments(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    at = 0
    for length in lengths:
        yield at, at + length
        at += length


def _reordered(x: np.ndarray, order: np.ndarray, tower: Tower) -> np.ndarray:
    """Patches (N, ...) with their tokens in another order."""
    return x.reshape(len(order), tower.merge**2, -1)[order].reshape(len(x), -1)
