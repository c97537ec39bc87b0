"""A rounded target as a function of its continuous numbers, and the gradient of its loss by them.

Codes and small integers stay what they are. What can move are norms, biases and the `linear` params
of a block layout (its scales and minimums), each by a relative change, its delta:

    norm, scale, minimum    value * (1 + delta)
    bias                    value + delta * mean size of the bias

The loss is KL(original || target), in nats a token. Of both models one layer is in memory at a
time; going backwards, a layer is computed again from the states before it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibrate import Weights, advance, batches, embed, load_layer
from quantize.checkpoint import Checkpoint
from quantize.curvature import Room
from quantize.divergence import Head, Reading, divergence, read
from runtime.archs import FAMILIES, Arch
from runtime.backends.torch import TorchOps
from runtime.blocks import Params, numpy_of, to_numpy
from runtime.forward import Layer, decoder_layer
from runtime.tensor import Tensor

Deltas = dict[str, torch.Tensor]
"""Relative changes, float32, by the tensor's name; of a packed tensor by "name:param"."""

NORM = "output_norm.weight"

TOKENS = 8192
"""Tokens that stand before a head at a time."""


@dataclass(frozen=True)
class Student:
    """A rounded target that is read one layer at a time."""

    arch: Arch
    ops: TorchOps
    read: Callable[[str], Tensor]
    """Name of a tensor -> its packed rows."""
    head: Head
    """Not tuned."""

    def layer(self, index: int) -> list["Part"]:
        """The tensors of one decoder layer."""
        names = FAMILIES[self.arch.family].layer_shapes(self.arch)
        return [open_part(self.read(f"blk.{index}.{name}"), self.ops.device) for name in names]

    def norm(self) -> "Part":
        """The norm before the head."""
        return open_part(self.read(NORM), self.ops.device)


@dataclass(frozen=True)
class Teacher:
    """The original at its head: see `Reading`."""

    states: np.ndarray
    """(rows, T, D)"""
    normalizer: np.ndarray
    """(rows, T)"""
    head: Head

    def reading(self, rows: np.ndarray) -> Reading:
        """The tokens of some windows, one after the other."""
        states, normalizer = (
            torch.from_numpy(np.array(of[rows])).to(self.head.device).flatten(0, 1)
            for of in (self.states, self.normalizer)
        )
        return Reading(states, self.head, normalizer)


@dataclass(frozen=True)
class Part:
    """One tensor of a target, unpacked."""

    tensor: Tensor
    codes: torch.Tensor | None
    """(rows, cols) int32; None for a float tensor."""
    params: Params
    """Of the block layout; "" is a float tensor itself."""

    @property
    def free(self) -> dict[str, str]:
        """Name of a delta -> the param that it changes."""
        name = self.tensor.name
        if self.codes is not None:
            return {f"{name}:{param}": param for param in self.tensor.block.linear}
        return {name: ""} if len(self.tensor.shape) == 1 else {}

    def moved(self, deltas: Deltas, as_stored: bool = False) -> Params:
        """Params after the changes; `as_stored`: rounded to what the file can hold."""
        out = dict(self.params)
        for name, key in self.free.items():
            base = self.params[key]
            unit = base.abs().mean() if name.endswith(".bias") else base
            out[key] = base + deltas[name] * unit
            if as_stored and self.codes is not None:
                out[key] = self.tensor.block.storable(out[key])
        return out

    def value(self, deltas: Deltas, as_stored: bool = False) -> torch.Tensor:
        """The tensor after the changes: (rows, cols) or (n,) float32."""
        params, block = self.moved(deltas, as_stored), self.tensor.block
        if self.codes is None:
            return params[""]
        value: torch.Tensor = block.value(self.codes, *block.grid(params))
        return value

    def packed(self, deltas: Deltas) -> np.ndarray:
        """The rows to store after the changes: uint8."""
        params = to_numpy(self.moved(deltas, as_stored=True))
        if self.codes is None:
            return self.tensor.block.pack(params[""].reshape(len(self.tensor.data), -1), {})
        return self.tensor.block.pack(numpy_of(self.codes), params)


def open_part(tensor: Tensor, device: torch.device) -> Part:
    """Unpack a tensor to float32 params on a device."""
    if tensor.block.is_float:
        return Part(tensor, None, {"": torch.from_numpy(np.array(tensor.decode())).to(device)})
    codes, params = tensor.block.unpack(tensor.data)
    on_device = {key: torch.from_numpy(np.array(value)).to(device) for key, value in params.items()}
    return Part(tensor, torch.from_numpy(codes).to(device), on_device)


def zeros(student: Student) -> Deltas:
    """A delta of 0 for everything that can move."""
    out: Deltas = {}
    for part in [p for i in range(student.arch.layers) for p in student.layer(i)] + [
        student.norm()
    ]:
        out |= {name: torch.zeros_like(part.params[key]) for name, key in part.free.items()}
    return out


def layer_weights(parts: list[Part], deltas: Deltas, as_stored: bool = False) -> Weights:
    """float32 tensors of a layer by their name within it."""
    return {p.tensor.name.split(".", 2)[2]: p.value(deltas, as_stored) for p in parts}


@torch.inference_mode()
def teach(checkpoint: Checkpoint, ids: np.ndarray, ops: TorchOps, room: Room) -> Teacher:
    """Run the original on windows ids (rows, T)."""
    arch = checkpoint.arch
    states = room("teacher-states", (*ids.shape, arch.hidden))
    embed(checkpoint.tensors["token_embd.weight"], ids, states)
    for index in range(arch.layers):
        advance(ops, Layer(arch, load_layer(checkpoint, index, ops.device)), states, states)
    norm, head = ops.load(checkpoint.tensors[NORM]), Head(checkpoint.tensors[arch.head], ops.device)
    normalizer = np.zeros(ids.shape, np.float32)
    for here in batches(len(ids), max(1, TOKENS // ids.shape[1])):
        x = ops.rmsnorm(torch.from_numpy(np.array(states[here])).to(ops.device), norm, arch.eps)
        states[here] = x.cpu().numpy()
        found = read(x.flatten(0, 1), head).normalizer
        normalizer[here] = found.reshape(x.shape[:2]).cpu().numpy()
    return Teacher(states, normalizer, head)


@torch.inference_mode()
def kl(
    student: Student,
    deltas: Deltas,
    ids: np.ndarray,
    teacher: Teacher,
    rows: np.ndarray,
    room: Room,
) -> np.ndarray:
    """Mean KL of windows `rows` of ids (all, T), as the file would store the deltas: (rows,)."""
    arch, device = student.arch, student.ops.device
    states = room("student-states", (len(rows), ids.shape[1], arch.hidden))
    embed(student.read("token_embd.weight"), ids[rows], states)
    for index in range(arch.layers):
        weights = layer_weights(student.layer(index), deltas, as_stored=True)
        advance(student.ops, Layer(arch, weights), states, states)
    norm = student.norm().value(deltas, as_stored=True)
    out = np.zeros(len(rows))
    for here in batches(len(rows), max(1, TOKENS // ids.shape[1])):
        x = torch.from_numpy(np.array(states[here])).to(device).flatten(0, 1)
        target = read(student.ops.rmsnorm(x, norm, arch.eps), student.head)
        found = divergence(teacher.reading(rows[here]), target)
        out[here] = found.reshape(-1, ids.shape[1]).mean(1).cpu().numpy()
    return out


def kl_gradient(
    student: Student, deltas: Deltas, ids: np.ndarray, teacher: Teacher, rows: np.ndarray
) -> tuple[float, Deltas]:
    """Mean KL of windows `rows` of ids (all, T), and its gradient by every delta."""
    arch = student.arch
    states = np.zeros((arch.layers + 1, len(rows), ids.shape[1], arch.hidden), np.float32)
    embed(student.read("token_embd.weight"), ids[rows], states[0])
    for index in range(arch.layers):
        with torch.inference_mode():
            layer = Layer(arch, layer_weights(student.layer(index), deltas))
            advance(student.ops, layer, states[index], states[index + 1])
    loss, gradient, found = head_gradient(student, deltas, states[-1], teacher.reading(rows))
    tables = arch.rope.tables(0, ids.shape[1], arch.head_dim)
    for index in reversed(range(arch.layers)):
        parts = student.layer(index)
        leaves = {n: deltas[n].clone().requires_grad_() for part in parts for n in part.free}
        x = torch.from_numpy(states[index]).to(student.ops.device).requires_grad_()
        layer = Layer(arch, layer_weights(parts, leaves), 0, tables)
        after = decoder_layer(student.ops, layer, x, None)
        gradient, *by = torch.autograd.grad(after, [x, *leaves.values()], gradient)
        found |= dict(zip(leaves, by, strict=True))
    return loss, found


def head_gradient(
    student: Student, deltas: Deltas, states: np.ndarray, original: Reading
) -> tuple[float, torch.Tensor, Deltas]:
    """Mean KL of last states (rows, T, D), its gradient by them, and by the last norm's delta."""
    x = torch.from_numpy(states).to(student.ops.device).requires_grad_()
    delta = deltas[NORM].clone().requires_grad_()
    normed = student.ops.rmsnorm(x, student.norm().value({NORM: delta}), student.arch.eps)
    target = read(normed.detach().flatten(0, 1), student.head)
    change = torch.zeros_like(target.states)
    mean = divergence(original, target, change).mean()
    change = (change / len(change)).reshape(x.shape)
    gradient, by_norm = torch.autograd.grad(normed, [x, delta], change)
    return mean.item(), gradient, {NORM: by_norm}
