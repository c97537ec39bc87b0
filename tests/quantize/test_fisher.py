"""Gradients taken a layer at a time, against autograd through the whole model at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.calibration import fisher as fisher_file
from quantize.calibration.fisher import LayerFisher, Tables, fisher, sample_categorical
from quantize.calibration.rows import Rows
from quantize.calibration.stream import OriginalLayers
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.run.resume import Work
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, forward, layers
from runtime.tensor import Tensor
from tests.conftest import CONFIGS
from tests.quantize.layers import layer_of
from tests.small_models import kl

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("exact_products")]

ROWS, LENGTH = 5, 24


def rooms(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Room in memory."""
    return np.zeros(shape, np.float32)


@dataclass
class Found:
    """All that `fisher` told."""

    layers: dict[int, LayerFisher]
    outside: Tables
    tokens: torch.Tensor
    """(rows * T,): what was drawn from the model itself."""


def measured(
    checkpoint: Checkpoint,
    ids: np.ndarray,
    ops: TorchOps | None = None,
    room: Callable[[str, tuple[int, ...]], np.ndarray] = rooms,
    seed: int = 0,
    **chunks: int,
) -> Found:
    """Run `fisher` and keep every layer's answer and the tokens."""
    seen: dict[int, LayerFisher] = {}
    tokens: list[torch.Tensor] = []

    def watched(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        tokens.append(sample_categorical(probs, u))
        return tokens[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fisher_file, "sample_categorical", watched)
        out = fisher(
            checkpoint, Rows(ids), ops or TorchOps(), room, seen.__setitem__, seed, **chunks
        )
    return Found(seen, out, torch.cat(tokens))


@dataclass
class Recording(TorchOps):
    """Torch, remembering what each weight read and wrote."""

    names: dict[int, str] = field(default_factory=dict)
    read: dict[str, torch.Tensor] = field(default_factory=dict)
    wrote: dict[str, torch.Tensor] = field(default_factory=dict)
    parts: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def load(self, tensor: Tensor) -> torch.Tensor:
        weight = super().load(tensor)
        self.names[id(weight)] = tensor.name
        return weight

    def embed(self, weight: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
        self.wrote["embedded"] = super().embed(weight, ids).requires_grad_()
        return self.wrote["embedded"]

    def matmul(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        name = self.names[id(weight)]
        out = super().matmul(x, weight, bias)
        out.retain_grad()
        self.read[name], self.wrote[name] = x.detach().reshape(-1, x.shape[-1]), out
        return out

    def expert(self, weight: torch.Tensor, index: int) -> torch.Tensor:
        part = super().expert(weight, index)
        self.parts.append(part)  # its id stays its own
        self.names[id(part)] = f"{self.names[id(weight)]}.{index}"
        return part

    def gradient(self, name: str) -> torch.Tensor:
        """(rows * T, out)"""
        gradient = self.wrote[name].grad
        assert gradient is not None
        return gradient.reshape(-1, gradient.shape[-1])


@dataclass
class Twin:
    """The whole model with its graph, after the backward pass."""

    ops: Recording
    chances: torch.Tensor
    """(rows * T, V)"""


def twin(checkpoint: Checkpoint, ids: np.ndarray, tokens: torch.Tensor) -> Twin:
    """log p of the tokens that were drawn, summed and differentiated in one go."""
    ops, arch = Recording(), checkpoint.arch
    weights = {name: ops.load(tensor) for name, tensor in checkpoint.tensors.items()}
    logits = forward(ops, arch, weights, layers(arch, weights), ids).flatten(0, 1)
    torch.log_softmax(logits, -1)[range(len(tokens)), tokens].sum().backward()
    return Twin(ops, torch.softmax(logits.detach(), -1))


def random_ids(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (ROWS, LENGTH))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for float32 sums in another order."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-5 * scale)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_costs_what_the_whole_model_s_gradients_say(
    name: str, random_models: dict[str, Path]
) -> None:
    checkpoint, ids = open_checkpoint(random_models[name]), random_ids()
    found = measured(checkpoint, ids)
    ops = twin(checkpoint, ids, found.tokens).ops
    assert list(found.layers) == list(reversed(range(checkpoint.arch.layers)))
    for index, layer in found.layers.items():
        for group in checkpoint.arch.layer(index).groups:
            gradients = {n: ops.gradient(f"blk.{index}.{n}.weight") for n in group.linears}
            for linear, gradient in gradients.items():
                close(layer.rows[linear], gradient.square().mean(0))
            weight = torch.stack([g.square().sum(1) for g in gradients.values()]).sum(0)
            size = torch.from_numpy(layer.tokens[group.name])
            assert size.shape == (ROWS, LENGTH)
            close(size.flatten(), weight.sqrt())
            x = ops.read[f"blk.{index}.{group.linears[0]}.weight"]
            close(layer.hessians[group.name], (x.T * weight) @ x / weight.sum())


@pytest.mark.parametrize("name", CONFIGS)
def test_tables_cost_what_the_whole_model_s_gradients_say(
    name: str, random_models: dict[str, Path]
) -> None:
    checkpoint, ids = open_checkpoint(random_models[name]), random_ids(1)
    found = measured(checkpoint, ids)
    tables, whole = found.outside.tables, twin(checkpoint, ids, found.tokens)
    gradient = whole.ops.gradient("embedded")
    inner = gradient.T @ gradient / len(gradient)
    read = whole.ops.read[checkpoint.arch.head]
    outer = read.T @ read / len(read)
    seen = torch.bincount(torch.from_numpy(ids.ravel()), minlength=4096) / ids.size
    used = whole.chances.mean(0)
    if checkpoint.arch.tied:
        assert list(tables) == ["token_embd.weight"]
        close(tables["token_embd.weight"].hessian, inner + outer)
        close(tables["token_embd.weight"].rows, (seen + used) / 2)
        return
    assert list(tables) == ["token_embd.weight", "output.weight"]
    close(tables["token_embd.weight"].hessian, inner)
    close(tables["token_embd.weight"].rows, seen)
    close(tables["output.weight"].hessian, outer)
    close(tables["output.weight"].rows, used)


def same(left: Found, right: Found) -> None:
    """All numbers of two answers are alike."""
    for index, layer in left.layers.items():
        other = right.layers[index]
        for first, hessian in layer.hessians.items():
            close(hessian, other.hessians[first])
            close(torch.from_numpy(layer.tokens[first]), torch.from_numpy(other.tokens[first]))
        for linear, rows in layer.rows.items():
            close(rows, other.rows[linear])
    for name, table in left.outside.tables.items():
        close(table.hessian, right.outside.tables[name].hessian)
        close(table.rows, right.outside.tables[name].rows)


def test_the_tables_need_no_look_at_the_layers(random_models: dict[str, Path]) -> None:
    checkpoint, ids = open_checkpoint(random_models["qwen2-untied"]), random_ids()
    unwatched = fisher(checkpoint, Rows(ids), TorchOps(), rooms)
    for name, table in measured(checkpoint, ids).outside.tables.items():
        assert torch.equal(unwatched.tables[name].hessian, table.hessian)
        assert torch.equal(unwatched.tables[name].rows, table.rows)


def test_how_many_tokens_and_logits_go_at_once_changes_nothing(
    random_models: dict[str, Path],
) -> None:
    checkpoint, ids = open_checkpoint(random_models["qwen2-untied"]), random_ids()
    pieces = measured(checkpoint, ids, tokens=2 * LENGTH, logits=7 * 4096)  # one row is left over
    same(pieces, measured(checkpoint, ids))


def test_states_on_disk_give_the_same_numbers(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint, ids = open_checkpoint(random_models["llama-tied"]), random_ids()
    work, asked = Work(tmp_path, {"model": {"name": "key"}}), []

    def room(name: str, shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        array = work.allocate(name, shape, max_ram=0)
        assert isinstance(array, np.memmap)
        return array

    same(measured(checkpoint, ids, room=room), measured(checkpoint, ids))
    assert asked == [(checkpoint.arch.layers + 1, ROWS, LENGTH, checkpoint.arch.hidden)]


def test_another_seed_draws_other_tokens(random_models: dict[str, Path]) -> None:
    checkpoint, ids = open_checkpoint(random_models["qwen2-tied"]), random_ids()
    first, again, other = (measured(checkpoint, ids, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert float((first.tokens == other.tokens).float().mean()) < 0.5
    rows = [found.layers[0].rows["ffn_up"] for found in (first, again, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2], rtol=0.01)


def test_tokens_are_drawn_as_often_as_their_chances_say() -> None:
    probs = torch.tensor([0.0, 0.5, 0.125, 0.0, 0.375, 0.0])
    u = (torch.arange(1000) + 0.5) / 1000
    counts = torch.bincount(sample_categorical(probs.expand(1000, 6), u), minlength=6)
    assert counts.tolist() == [0, 500, 125, 0, 375, 0]
    ends = sample_categorical(probs.expand(2, 6), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1, 4]


class Counting(TorchOps):
    """Torch, remembering what was loaded whole."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def load(self, tensor: Tensor) -> torch.Tensor:
        self.loaded.append(tensor.name)
        return super().load(tensor)


def test_one_layer_is_loaded_at_a_time_there_and_back(
    random_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = OriginalLayers.layer

    def counted(source: OriginalLayers, index: int) -> Layer:
        asked.append(index)
        return real(source, index)

    monkeypatch.setattr(OriginalLayers, "layer", counted)
    checkpoint, ops = open_checkpoint(random_models["qwen2-untied"]), Counting()
    found = measured(checkpoint, random_ids(), ops)
    assert asked == [0, 1, 1, 0]
    assert ops.loaded == ["output_norm.weight", "output.weight"]
    expected = layer_of(checkpoint, 1).weights
    assert found.layers[1].weights.keys() == expected.keys()
    assert all(torch.equal(found.layers[1].weights[n], w) for n, w in expected.items())


def logits_with(
    checkpoint: Checkpoint, ids: np.ndarray, changed: str = "", error: torch.Tensor | None = None
) -> np.ndarray:
    """Logits (rows, T, V), with an error added to one weight."""
    ops = TorchOps()
    weights = {name: ops.load(tensor) for name, tensor in checkpoint.tensors.items()}
    if error is not None:
        weights[changed] = weights[changed] + error
    out = forward(ops, checkpoint.arch, weights, layers(checkpoint.arch, weights), ids)
    return np.asarray(out.numpy())


@pytest.mark.slow
def test_a_small_random_error_costs_what_the_formula_says(tiny: Checkpoint) -> None:
    ids = np.array(tiny.tokenizer.encode((tiny.folder / "README.md").read_text("utf-8")))
    ids = ids[: len(ids) // 64 * 64].reshape(-1, 64)[:12]
    found = measured(tiny, ids)
    original = logits_with(tiny, ids)
    draw = torch.Generator().manual_seed(0)
    ratios = {}
    for name in ("blk.0.attn_v", "blk.0.ffn_down", "blk.3.attn_q", "blk.5.ffn_up", "token_embd"):
        weight = torch.from_numpy(np.array(tiny.tensors[f"{name}.weight"].decode()))
        error = 0.03 * weight.std() * torch.randn(weight.shape, generator=draw)
        if name == "token_embd":
            table = found.outside.tables["token_embd.weight"]
            hessian, rows = table.hessian, table.rows
        else:
            _, index, linear = name.split(".")
            layer = found.layers[int(index)]
            groups = tiny.arch.layer(int(index)).groups
            group = next(group for group in groups if linear in group.linears)
            hessian, rows = layer.hessians[group.name], layer.rows[linear]
        predicted = 0.5 * float((rows * ((error @ hessian) * error).sum(1)).sum())
        real = kl(original, logits_with(tiny, ids, f"{name}.weight", error))
        ratios[name] = predicted / real
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios
