"""A rounded target as a function of its continuous numbers, and the gradient of its loss by them.

Codes and small integers stay what they are. What can move are norms, biases and the `linear` params
of a block layout (its scales and minimums), each by a relative change, its delta:

    norm, scale, minimum    value * (1 + delta)
    bias                    value + delta * mean size of the bias

The loss is KL(original || target), in nats a token. Of both models one layer is in memory at a
time, beside the two heads; going backwards, a layer is computed again from the states before it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibrate import Weights, advance, batches, embed, load_layer
from quantize.checkpoint import Checkpoint
from quantize.curvature import LOGITS, Room
from runtime.archs import FAMILIES, Arch
from runtime.backends.torch import TorchOps
from runtime.blocks import Params, numpy_of, to_numpy
from runtime.forward import Layer, decoder_layer
from runtime.tensor import Tensor

Deltas = dict[str, torch.Tensor]
"""Relative changes, float32, by the tensor's name; of a packed tensor by "name:param"."""

NORM = "output_norm.weight"


@dataclass(frozen=True)
class Student:
    """A rounded target that is read one layer at a time."""

    arch: Arch
    ops: TorchOps
    read: Callable[[str], Tensor]
    """Name of a tensor -> its packed rows."""
    head: torch.Tensor
    """(V, D) float32, not tuned."""

    def layer(self, index: int) -> list["Part"]:
        """The tensors of one decoder layer."""
        names = FAMILIES[self.arch.family].layer_shapes(self.arch)
        return [open_part(self.read(f"blk.{index}.{name}"), self.ops.device) for name in names]

    def norm(self) -> "Part":
        """The norm before the head."""
        return open_part(self.read(NORM), self.ops.device)


@dataclass(frozen=True)
class Teacher:
    """The original: what its head reads at every token, (rows, T, D), and the head, (V, D)."""

    read: np.ndarray
    head: torch.Tensor


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
    norm = ops.load(checkpoint.tensors[NORM])
    for here in batches(len(ids), 1):
        x = torch.from_numpy(np.array(states[here])).to(ops.device)
        states[here] = ops.rmsnorm(x, norm, arch.eps).cpu().numpy()
    return Teacher(states, ops.load(checkpoint.tensors[arch.head]))


def divergence(
    student: Student, norm: torch.Tensor, states: torch.Tensor, teacher: Teacher, read: torch.Tensor
) -> torch.Tensor:
    """KL (t,) of tokens with last states (t, D), against what the teacher's head reads, (t, D)."""
    right = torch.log_softmax(read @ teacher.head.T, -1)  # (t, V)
    normed = student.ops.rmsnorm(states, norm, student.arch.eps)
    ours = torch.log_softmax(normed @ student.head.T, -1)
    return (right.exp() * (right - ours)).sum(-1)


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
    for at, row in enumerate(rows):
        x = torch.from_numpy(np.array(states[at])).to(device)
        read = torch.from_numpy(np.array(teacher.read[row])).to(device)
        pieces = batches(len(x), max(1, LOGITS // arch.vocab))
        found = [divergence(student, norm, x[h], teacher, read[h]) for h in pieces]
        out[at] = float(torch.cat(found).mean())
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
    loss, gradient, found = head_gradient(student, deltas, states[-1], teacher, teacher.read[rows])
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
    student: Student, deltas: Deltas, states: np.ndarray, teacher: Teacher, read: np.ndarray
) -> tuple[float, torch.Tensor, Deltas]:
    """Mean KL of last states (rows, T, D), its gradient by them, and by the last norm's delta."""
    part, device = student.norm(), student.ops.device
    x = torch.from_numpy(states).to(device).flatten(0, 1)
    right = torch.from_numpy(np.array(read)).to(device).flatten(0, 1)
    gradient, by_norm, loss = torch.empty_like(x), torch.zeros_like(deltas[NORM]), 0.0
    for here in batches(len(x), max(1, LOGITS // student.arch.vocab)):
        piece, delta = x[here].clone().requires_grad_(), deltas[NORM].clone().requires_grad_()
        norm = part.value({NORM: delta})
        mean = divergence(student, norm, piece, teacher, right[here]).sum() / len(x)
        gradient[here], by = torch.autograd.grad(mean, [piece, delta])
        by_norm += by
        loss += mean.item()
    return loss, gradient.reshape(states.shape), {NORM: by_norm}
