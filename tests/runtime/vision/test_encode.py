"""The vision tower against a slow twin: every patch by itself, seeing what it may see."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.checkpoint import open_checkpoint
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.vision.encode import encode, tower_tensors, window_order
from runtime.vision.image import Patches
from runtime.vision.tower import Tower, tower_of
from tests.one_file_models import weights
from tests.small_models import assert_near
from tests.vision_models import MODELS, QWEN25, vision_model

Values = Mapping[str, np.ndarray]


def random_patches(tower: Tower, rows: int, cols: int, seed: int) -> Patches:
    shape = (rows * cols, tower.patch_values)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Patches(values, rows, cols)


def place(image: Patches, merge: int, at: int) -> tuple[int, int]:
    """Row and column of patch number `at`."""
    token, inner = divmod(at, merge**2)
    row, col = divmod(token, image.cols // merge)
    return row * merge + inner // merge, col * merge + inner % merge


def turned(x: np.ndarray, row: int, col: int) -> np.ndarray:
    """A head's channels (C,) rotated pair by pair: the first half of them by row."""
    half, out = len(x) // 2, np.empty_like(x)
    for pair in range(half):
        within = pair % (half // 2)
        angle = (row if pair < half // 2 else col) * 10000.0 ** (-within / (half // 2))
        a, b = x[pair], x[pair + half]
        out[pair] = a * math.cos(angle) - b * math.sin(angle)
        out[pair + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def slow(tower: Tower, w: Values, image: Patches) -> np.ndarray:
    """One image, all windows as a mask over its patches."""

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        if tower.modern:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    places = [place(image, tower.merge, at) for at in range(len(image.values))]
    side = tower.window // tower.patch
    x = image.values @ w["patch_embed.proj.weight"].reshape(tower.width, -1).T
    for index in range(tower.depth):
        start = f"blocks.{index}"
        heads = linear(f"{start}.attn.qkv", norm(f"{start}.norm1", x))
        heads = heads.reshape(len(x), 3, tower.heads, -1)
        out = np.zeros((len(x), tower.heads, tower.head_dim))
        for head in range(tower.heads):
            q, k = (
                np.stack([turned(heads[n, part, head], *places[n]) for n in range(len(x))])
                for part in range(2)
            )
            scores = np.exp(q @ k.T / math.sqrt(tower.head_dim))
            if side and index not in tower.full:
                windows = [(row // side, col // side) for row, col in places]
                scores *= np.array([[one == other for other in windows] for one in windows])
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ heads[:, 2, head]
        x = x + linear(f"{start}.attn.proj", out.reshape(len(x), -1))
        inner = norm(f"{start}.norm2", x)
        if tower.modern:
            gate = linear(f"{start}.mlp.gate_proj", inner)
            gated = gate / (1 + np.exp(-gate)) * linear(f"{start}.mlp.up_proj", inner)
            x = x + linear(f"{start}.mlp.down_proj", gated)
        else:
            up = linear(f"{start}.mlp.fc1", inner)
            x = x + linear(f"{start}.mlp.fc2", up / (1 + np.exp(-1.702 * up)))
    merged = norm("merger.ln_q", x).reshape(len(x) // tower.merge**2, -1)
    up = linear("merger.mlp.0", merged)
    return linear("merger.mlp.2", torch.nn.functional.gelu(torch.tensor(up)).numpy())


def small_windows(config: dict[str, Any]) -> Tower:
    """The tower with windows of 2 x 2 tokens, where it has any."""
    tower = tower_of(config)
    assert tower
    return replace(tower, window=56) if tower.window else tower


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return vision_model(tmp_path / "model", MODELS[request.param])


@pytest.mark.parametrize("sizes", [[(6, 10)], [(2, 2), (8, 4), (10, 6)]])
def test_embeddings_are_those_of_the_slow_twin(model: Path, sizes: list[tuple[int, int]]) -> None:
    checkpoint = open_checkpoint(model)
    tower = small_windows(checkpoint.config)
    tensors = tower_tensors(tower, checkpoint.beside)
    values = {n: t.decode().reshape(t.shape).astype(np.float64) for n, t in tensors.items()}
    images = [random_patches(tower, *size, seed) for seed, size in enumerate(sizes)]
    expected = np.concatenate([slow(tower, values, image) for image in images])
    assert_near(encode(tower, tensors, images), expected)


def test_windows_at_the_edge_are_smaller() -> None:
    tower = small_windows(QWEN25)
    order, segments = window_order(tower, [random_patches(tower, 6, 10, 0)])
    # tokens are 3 x 5, windows 2 x 2 of them
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert segments == [(0, 16), (16, 32), (32, 40), (40, 48), (48, 56), (56, 60)]


def test_towers_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", QWEN25))
    tower, arrays = tower_of(checkpoint.config), dict(checkpoint.beside)
    assert tower
    name = "blocks.1.mlp.down_proj.weight"
    with pytest.raises(CorruptFileError, match=f"{name} of the vision tower is not there"):
        tower_tensors(tower, {n: array for n, array in arrays.items() if n != name})
    with pytest.raises(CorruptFileError, match=r"has shape \(32, 44\), not \(44, 32\)"):
        tower_tensors(tower, arrays | {"blocks.1.mlp.up_proj.weight": arrays[name]})
    with pytest.raises(UnsupportedError, match=r"1 tensors that are not known \(extra.weight\)"):
        tower_tensors(tower, arrays | {"extra.weight": arrays[name]})
    tower_tensors(tower, arrays | {"rotary_pos_emb.inv_freq": arrays[name]})

    def as_bytes(values: dict[str, torch.Tensor]) -> None:
        values[f"visual.{name}"] = values[f"visual.{name}"].to(torch.int8)

    weights(tmp_path / "x", as_bytes)
    with pytest.raises(UnsupportedError, match=f"{name} of the vision tower is I8"):
        tower_tensors(tower, open_checkpoint(tmp_path / "x").beside)
