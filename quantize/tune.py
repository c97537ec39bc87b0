"""After-tuning: once the codes are fixed, train what is still free on the original's predictions.

A rounded model keeps continuous numbers: norms, biases and the scales of its blocks. They are
trained so that the KL divergence from the original falls (knowledge distillation, Hinton et al.
2015; only scales and norms, as in EfficientQAT, Chen et al. 2024). Codes and small integers stay.
Every number changes by a share of itself, and the blocks of a row share one change: few numbers
learn little by heart, and scales of one block each were seen to over-fit.

Some windows of every domain are held back. The state that is best on them is kept, and only when
the KL falls on every domain; else the target stays as it was rounded.

Nothing here holds a whole model: weights of one layer are decoded at a time, forwards and again
backwards, where its activations are computed a second time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibrate import TOKENS, Weights, advance, batches, load_layer
from quantize.checkpoint import Checkpoint
from quantize.curvature import LOGITS, Room
from runtime.backends.torch import TorchOps
from runtime.blocks import Params, numpy_of, to_numpy
from runtime.forward import Layer, decoder_layer
from runtime.tensor import Tensor

WINDOWS = 2
"""Windows of one step."""
HELD = 8
"""One window in so many of each domain is held back."""

Deltas = dict[str, torch.Tensor]
"""Tensor -> relative change of its numbers: (n,), or (1, rows, 1) for a matrix of blocks."""


@dataclass(frozen=True)
class Rounded:
    """A rounded model that is read one tensor at a time."""

    checkpoint: Checkpoint
    """The original."""
    read: Callable[[str], Tensor]
    """Name -> tensor as it was rounded."""
    ops: TorchOps

    def layer_names(self, index: int) -> list[str]:
        """Every tensor of one layer."""
        names = self.checkpoint.family.layer_shapes(self.checkpoint.arch)
        return [f"blk.{index}.{name}" for name in names]

    def layer(self, index: int, deltas: Deltas, length: int) -> Layer:
        """One layer for `length` tokens, differentiable in its deltas."""
        arch = self.checkpoint.arch
        weights: Weights = {}
        for name in self.layer_names(index):
            short = name.split(".", 2)[2]
            weights[short] = tuned(self.read(name), deltas.get(name), self.ops)
        return Layer(arch, weights, index, arch.rope.tables(0, length, arch.head_dim))

    def stored(self, deltas: Deltas) -> "Rounded":
        """The model as its file would hold it after these changes."""

        def read(name: str) -> Tensor:
            tensor = self.read(name)
            return changed(tensor, deltas[name].cpu()) if name in deltas else tensor

        return Rounded(self.checkpoint, read, self.ops)


def start(model: Rounded) -> Deltas:
    """A change of nothing for every norm, bias and matrix of blocks in the layers."""
    deltas: Deltas = {}
    for name, shape in model.checkpoint.tensors.shapes.items():
        if len(shape) == 1:
            deltas[name] = torch.zeros(shape, device=model.ops.device)
        elif name.startswith("blk.") and model.read(name).block.linear:
            deltas[name] = torch.zeros(1, shape[0], 1, device=model.ops.device)
    return deltas


def unit(tensor: Tensor, values: torch.Tensor) -> torch.Tensor:
    """What a relative change of 1 adds to a norm or a bias; near-zero biases go by their mean."""
    return values.abs().mean() if tensor.name.endswith(".bias") else values


def linear(tensor: Tensor, params: Params) -> torch.Tensor:
    """The params that may change, (keys, rows, blocks) float32."""
    return torch.stack([torch.as_tensor(params[key]) for key in tensor.block.linear])


def tuned(tensor: Tensor, delta: torch.Tensor | None, ops: TorchOps) -> torch.Tensor:
    """The weights after a change, differentiable in it; scales not yet rounded for the file."""
    if delta is None:
        return ops.load(tensor)
    if len(tensor.shape) == 1:
        values = ops.load(tensor)
        return values + unit(tensor, values) * delta
    block = tensor.block
    codes, params = block.unpack(tensor.data)
    there = {key: torch.from_numpy(value).to(ops.device) for key, value in params.items()}
    basis = torch.stack(block.basis(torch.from_numpy(codes).to(ops.device), there))
    pieces = basis.reshape(*basis.shape[:2], -1, block.size)  # (keys, rows, blocks, size)
    scales = linear(tensor, there) * (1 + delta)
    return (pieces * scales[..., None]).sum(0).reshape(tensor.shape)


def changed(tensor: Tensor, delta: torch.Tensor) -> Tensor:
    """The tensor as a file holds it after a change: codes and integers are the same."""
    if len(tensor.shape) == 1:
        values = torch.from_numpy(np.array(tensor.decode()))
        return Tensor.dense(tensor.name, numpy_of(values + unit(tensor, values) * delta))
    block = tensor.block
    codes, params = block.unpack(tensor.data)
    new = block.storable(linear(tensor, params) * (1 + delta))
    params = params | dict(zip(block.linear, new, strict=True))
    return Tensor(tensor.name, tensor.shape, block, block.pack(codes, to_numpy(params)))


def original_states(
    checkpoint: Checkpoint, ids: np.ndarray, ops: TorchOps, room: Room
) -> np.ndarray:
    """What the head of the original reads before its norm: (rows, T, D)."""
    hidden = room("original-states", (*ids.shape, checkpoint.arch.hidden))
    embedding = checkpoint.tensors["token_embd.weight"]
    for row, tokens in enumerate(ids):
        hidden[row] = embedding.block.decode(embedding.data[tokens])
    for index in range(checkpoint.arch.layers):
        layer = Layer(checkpoint.arch, load_layer(checkpoint, index, ops.device))
        with torch.inference_mode():
            advance(ops, layer, hidden, hidden)
    return hidden


def embed(model: Rounded, ids: np.ndarray) -> torch.Tensor:
    """Rows of the rounded embedding, (rows, T, D)."""
    table = model.read("token_embd.weight")
    rows = table.block.decode(table.data[ids.reshape(-1)])
    return torch.from_numpy(np.array(rows)).reshape(*ids.shape, -1).to(model.ops.device)


def head_loss(
    model: Rounded, delta: torch.Tensor, x: torch.Tensor, original: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KL of every token (rows, T), and the gradients of their mean: in x (rows, T, D) and delta.

    x and `original` are what the two heads read before their norms. Logits stand in memory for a
    few tokens at a time.
    """
    checkpoint, ops, arch = model.checkpoint, model.ops, model.checkpoint.arch
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    heads = [ops.load(source(arch.head)) for source in (checkpoint.tensors.__getitem__, model.read)]
    flat, wanted = x.detach().flatten(0, 1), original.reshape(-1, arch.hidden)
    losses, gradient = torch.empty(len(flat)), torch.empty_like(flat)
    slope = torch.zeros_like(delta)
    for here in batches(len(flat), max(1, LOGITS // arch.vocab)):
        reached = ops.rmsnorm(torch.from_numpy(np.array(wanted[here])).to(ops.device), norm, arch.eps)
        want = torch.log_softmax(reached @ heads[0].T, -1)  # (t, V)
        last, free = flat[here].requires_grad_(), delta.detach().clone().requires_grad_()
        normed = ops.rmsnorm(last, tuned(model.read("output_norm.weight"), free, ops), arch.eps)
        have = torch.log_softmax(normed.detach() @ heads[1].T, -1)
        losses[here] = (want.exp() * (want - have)).sum(-1).cpu()
        change = (have.exp() - want.exp()) @ heads[1] / len(flat)
        gradient[here], part = torch.autograd.grad(normed, [last, free], change)
        slope += part
    return losses.reshape(x.shape[:2]), gradient.reshape(x.shape), slope


def gradients(
    model: Rounded, deltas: Deltas, ids: np.ndarray, original: np.ndarray
) -> tuple[float, Deltas]:
    """Mean KL of windows ids (rows, T), and its gradient in every delta, layer by layer."""
    states = [embed(model, ids)]
    layers = range(model.checkpoint.arch.layers)
    for index in layers:
        with torch.no_grad():
            layer = model.layer(index, deltas, ids.shape[1])
            states.append(decoder_layer(model.ops, layer, states[-1], None))
    found: Deltas = {}
    norm = "output_norm.weight"
    losses, change, found[norm] = head_loss(model, deltas[norm], states.pop(), original)
    for index in reversed(layers):
        x = states.pop().requires_grad_()
        names = [name for name in model.layer_names(index) if name in deltas]
        free = {name: deltas[name].detach().clone().requires_grad_() for name in names}
        after = decoder_layer(model.ops, model.layer(index, free, ids.shape[1]), x, None)
        change, *parts = torch.autograd.grad(after, [x, *free.values()], change)
        found |= dict(zip(names, parts, strict=True))
    return float(losses.mean()), found


def divergence(model: Rounded, ids: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Mean KL of every window, (rows,)."""
    arch = model.checkpoint.arch
    states = embed(model, ids)
    with torch.inference_mode():
        hidden = numpy_of(states)
        for index in range(arch.layers):
            advance(model.ops, model.layer(index, {}, ids.shape[1]), hidden, hidden)
    zero = torch.zeros(arch.hidden, device=model.ops.device)
    losses = head_loss(model, zero, torch.from_numpy(hidden).to(model.ops.device), original)[0]
    return numpy_of(losses.mean(1))


def hold_back(domains: Sequence[str]) -> np.ndarray:
    """Which windows are held back (rows,): the last of every HELD of a domain, or its last."""
    held = np.zeros(len(domains), bool)
    for domain in set(domains):
        rows = [row for row, name in enumerate(domains) if name == domain]
        held[rows[len(rows) - max(1, len(rows) // HELD) :]] = True
    return held
