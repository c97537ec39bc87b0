"""A rounded target as a function of its continuous numbers, and the gradient of its loss by them.

Codes and small integers stay what they are. What can move are norms, biases and the `linear` params
of a block layout (its scales and minimums), each by a relative change, its delta:

    norm, scale, minimum    value * (1 + delta)
    bias                    value + delta * mean size of the bias

The loss is KL(original || target), in nats a token. Of both models one layer is in memory at a
time; going backwards, a layer is computed again from the states before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from quantize.calibration.rows import Rows
from quantize.calibration.states import embed, fetch, put
from quantize.calibration.stream import (
    Allocate,
    Carried,
    Gradients,
    Kept,
    OriginalLayers,
    Weights,
    backward,
    batches,
    forward,
)
from quantize.checkpoint import Checkpoint
from quantize.tuning.divergence import Head, Reading, divergence, read
from runtime.archs import Arch
from runtime.backends.torch import TorchOps
from runtime.forward import Layer
from runtime.quant_types import Params, numpy_of, to_numpy
from runtime.tensor import Tensor

Deltas = dict[str, torch.Tensor]
"""Relative changes, float32, by the tensor's name; of a packed tensor by "name:param"."""

NORM = "output_norm.weight"

TOKENS = 8192
"""Chunk size in tokens, before a head."""


@dataclass(frozen=True)
class Student:
    """A rounded target that is read one layer at a time."""

    arch: Arch
    ops: TorchOps
    read: Callable[[str], Tensor]
    """Name of a tensor -> its packed rows."""
    head: Head
    """Not tuned."""
    copied: frozenset[str] = frozenset()
    """Tensors that stay as they are (quantize/run/copied.py)."""

    def layer(self, index: int) -> list["TunableTensor"]:
        """The tensors of one decoder layer."""
        names = self.arch.layer(index).shapes
        whole = [f"blk.{index}.{name}" for name in names]
        return [open_part(self.read(n), self.ops.device, n in self.copied) for n in whole]

    def norm(self) -> "TunableTensor":
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
            fetch(of, rows, self.head.device).flatten(0, 1) for of in (self.states, self.normalizer)
        )
        return Reading(states, self.head, normalizer)


@dataclass(frozen=True)
class TunableTensor:
    """One tensor of a target, unpacked."""

    tensor: Tensor
    codes: torch.Tensor | None
    """(rows, cols) int32; None for a float tensor."""
    params: Params
    """Of the block layout; "" is a float tensor itself."""
    fixed: bool = False
    """Whether nothing in it moves."""

    @property
    def free(self) -> dict[str, str]:
        """Name of a delta -> the param that it changes."""
        name = self.tensor.name
        if self.fixed:
            return {}
        if self.codes is not None:
            return {f"{name}:{param}": param for param in self.tensor.qtype.linear}
        return {} if self.tensor.is_matrix else {name: ""}

    def moved(self, deltas: Deltas, as_stored: bool = False) -> Params:
        """Params after the changes; `as_stored`: rounded to what the file can hold."""
        out = dict(self.params)
        for name, key in self.free.items():
            base = self.params[key]
            unit = base.abs().mean() if name.endswith(".bias") else base
            out[key] = base + deltas[name] * unit
            if as_stored and self.codes is not None:
                out[key] = self.tensor.qtype.round_to_stored(out[key])
        return out

    def value(self, deltas: Deltas, as_stored: bool = False) -> torch.Tensor:
        """The tensor after the changes, float32."""
        params, qtype = self.moved(deltas, as_stored), self.tensor.qtype
        if self.codes is None:
            return params[""].reshape(self.tensor.shape)
        value: torch.Tensor = qtype.value(self.codes, *qtype.grid(params))
        if self.tensor.order is not None:
            value = value[:, torch.from_numpy(np.argsort(self.tensor.order)).to(value.device)]
        return value.reshape(self.tensor.shape)

    def packed(self, deltas: Deltas) -> np.ndarray:
        """The rows to store after the changes: uint8."""
        if self.fixed:
            return self.tensor.data
        params = to_numpy(self.moved(deltas, as_stored=True))
        if self.codes is None:
            return self.tensor.qtype.pack(params[""].reshape(len(self.tensor.data), -1), {})
        return self.tensor.qtype.pack(numpy_of(self.codes), params)


def open_part(tensor: Tensor, device: torch.device, fixed: bool = False) -> TunableTensor:
    """Unpack a tensor to float32 params on a device."""
    if tensor.qtype.is_float:
        return TunableTensor(
            tensor, None, {"": torch.from_numpy(np.array(tensor.decode())).to(device)}
        )
    codes, params = tensor.qtype.unpack(tensor.data)
    on_device = {key: torch.from_numpy(np.array(value)).to(device) for key, value in params.items()}
    return TunableTensor(tensor, torch.from_numpy(codes).to(device), on_device, fixed)


def zeros(student: Student) -> Deltas:
    """A delta of 0 for everything that can move."""
    out: Deltas = {}
    for part in [p for i in range(student.arch.layers) for p in student.layer(i)] + [
        student.norm()
    ]:
        out |= {name: torch.zeros_like(part.params[key]) for name, key in part.free.items()}
    return out


def layer_weights(parts: list[TunableTensor], deltas: Deltas, as_stored: bool = False) -> Weights:
    """float32 tensors of a layer by their name within it."""
    return {p.tensor.name.split(".", 2)[2]: p.value(deltas, as_stored) for p in parts}


@torch.inference_mode()
def run_teacher(
    checkpoint: Checkpoint, windows: Rows, ops: TorchOps, allocate: Allocate
) -> Teacher:
    """Run the original on windows."""
    arch, (count, length) = checkpoint.arch, windows.shape
    states = allocate("teacher-states", (count, length, arch.hidden))
    embed(arch, checkpoint.tensors["token_embd.weight"], windows, states)
    carried = Carried(states, images=windows.images)
    for layer, _ in forward(ops, OriginalLayers(checkpoint, ops.device), carried):
        del layer
    norm, head = ops.load(checkpoint.tensors[NORM]), Head(checkpoint.tensors[arch.head], ops.device)
    normalizer = np.zeros((count, length), np.float32)
    for here in batches(count, max(1, TOKENS // length)):
        x = ops.rmsnorm(fetch(states, here, ops.device), norm, arch.eps)
        put(states, here, x.cpu().numpy())
        found = read(x.flatten(0, 1), head).normalizer
        normalizer[here] = found.reshape(x.shape[:2]).cpu().numpy()
    return Teacher(states, normalizer, head)


@torch.inference_mode()
def kl(
    student: Student,
    deltas: Deltas,
    windows: Rows,
    teacher: Teacher,
    rows: np.ndarray,
    allocate: Allocate,
) -> np.ndarray:
    """Mean KL of some windows, `rows`, as the file would store the deltas: (rows,)."""
    arch, device, windows = student.arch, student.ops.device, windows.taken(rows)
    count, length = windows.shape
    states = allocate("student-states", (count, length, arch.hidden))
    embed(arch, student.read("token_embd.weight"), windows, states)
    source = Tuned(student, deltas, as_stored=True)
    for layer, _ in forward(student.ops, source, Carried(states, images=windows.images)):
        del layer
    norm = student.norm().value(deltas, as_stored=True)
    out = np.zeros(len(rows))
    for here in batches(count, max(1, TOKENS // length)):
        x = fetch(states, here, device).flatten(0, 1)
        target = read(student.ops.rmsnorm(x, norm, arch.eps), student.head)
        found = divergence(teacher.reading(rows[here]), target)
        by_window = zip(found.reshape(-1, length).cpu().numpy(), windows.text[here], strict=True)
        out[here] = [tokens[text].mean() for tokens, text in by_window]
    return out


def kl_gradient(
    student: Student, deltas: Deltas, windows: Rows, teacher: Teacher, rows: np.ndarray
) -> tuple[float, Deltas]:
    """Mean KL of some windows, `rows`, and its gradient by every delta."""
    arch, windows = student.arch, windows.taken(rows)
    shape = (arch.layers + 1, *windows.shape, arch.hidden)
    states = Kept(np.zeros(shape, np.float32), images=windows.images)
    embed(arch, student.read("token_embd.weight"), windows, states.values[0])
    with torch.inference_mode():
        for layer, _ in forward(student.ops, Tuned(student, deltas), states):
            del layer
    reading = teacher.reading(rows)
    known = (states.values[-1], windows.text, reading)
    loss, gradient, found = head_gradient(student, deltas, *known)
    leaves = {name: delta.clone().requires_grad_() for name, delta in deltas.items()}
    source = Tuned(student, leaves)
    observe = partial(ByDeltas, source)
    for layer, by in backward(student.ops, source, states, gradient, observe, windows.size):
        found |= by.gradients
        del layer, by
    return loss, found


@dataclass(frozen=True)
class Tuned:
    """The student's layers with their deltas, as the walk wants them."""

    student: Student
    deltas: Deltas
    as_stored: bool = False
    names: dict[int, list[str]] = field(default_factory=dict)
    """Layer that was opened -> its deltas."""

    @property
    def arch(self) -> Arch:
        return self.student.arch

    def layer(self, index: int) -> Layer:
        """Float32 weights after the changes."""
        parts = self.student.layer(index)
        self.names[index] = [name for part in parts for name in part.free]
        weights = layer_weights(parts, self.deltas, self.as_stored)
        return Layer(self.arch.layer(index), weights, index)


class ByDeltas(Gradients):
    """The gradients of the deltas of one layer."""

    def __init__(self, source: Tuned, layer: Layer) -> None:
        self.leaves = {name: source.deltas[name] for name in source.names[layer.index]}
        self.gradients: Deltas = {}

    def wanted(self) -> dict[str, torch.Tensor]:
        return self.leaves

    def take(self, rows: slice, gradients: dict[str, torch.Tensor]) -> None:
        self.gradients |= gradients


def head_gradient(
    student: Student, deltas: Deltas, states: np.ndarray, text: np.ndarray, original: Reading
) -> tuple[float, np.ndarray, Deltas]:
    """Mean KL of last states (rows, T, D), its gradient by them, and by the last norm's delta.

    Tokens that are not `text` (rows, T) do not count.
    """
    x = torch.from_numpy(states).to(student.ops.device).requires_grad_()
    delta = deltas[NORM].clone().requires_grad_()
    normed = student.ops.rmsnorm(x, student.norm().value({NORM: delta}), student.arch.eps)
    target = read(normed.detach().flatten(0, 1), student.head)
    change = torch.zeros_like(target.states)
    counted = torch.from_numpy(text.reshape(-1)).to(change.device)
    mean = divergence(original, target, change)[counted].mean()
    change[~counted] = 0
    change = (change / int(counted.sum())).reshape(x.shape)
    gradient, by_norm = torch.autograd.grad(normed, [x, delta], change)
    return mean.item(), gradient.cpu().numpy(), {NORM: by_norm}
