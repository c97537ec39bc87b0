"""Look at every stored tensor: NaN and infinity, names and shapes, and how far weights moved."""

from dataclasses import dataclass, replace

import numpy as np

from runtime.archs import Arch
from runtime.model import Model
from runtime.tensor import Tensor, is_matrix

CELLS = 1 << 24
"""Weights decoded at a time: 64 MiB of float32 for each of both models."""
MOVED = 0.05
"""Typical change of a channel's size among others that rounding does not explain."""
COPIED = 1e-6
"""Relative squared change of a norm or bias that half precision explains."""


@dataclass(frozen=True)
class TensorFact:
    """One stored tensor of an artifact."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    bad: int
    """Values that decode to NaN or infinity."""
    error: float | None
    """Sum of squared changes over sum of squares; None when the original has no such tensor."""
    kl: float | None = None
    """Mean KL of the original with only this tensor replaced, nats a token; None = not measured."""
    copied: bool = False
    """Whether it is packed in the original with the same bytes."""


@dataclass(frozen=True)
class Scan:
    """All tensors of an artifact."""

    tensors: tuple[TensorFact, ...]
    problems: tuple[str, ...]
    """A sentence for each fault: missing, unknown or misshapen tensors, NaN and infinity."""
    rescaled: bool
    """Whether scales or channels moved between tensors: one means little without the others."""
    notes: tuple[str, ...] = ()
    """What is unusual without being wrong, in sentences."""


def scan(original: Model, artifact: Model, cells: int = CELLS) -> Scan:
    """Decode every stored tensor of the artifact beside the original's, `cells` at a time."""
    arch, untied = original.arch, original.arch.tied and not artifact.arch.tied
    shapes = (replace(arch, tied=False) if untied else arch).shapes()
    stored = list(artifact.tensors)
    missing = [name for name in shapes if name not in stored]
    unknown = [name for name in stored if name not in shapes]
    problems = [
        f"{len(names)} tensors are {what}, the first is {names[0]}"
        for what, names in (("missing", missing), ("not the model's", unknown))
        if names
    ]
    facts = []
    for name in stored:
        tensor = artifact.tensors[name]
        if name in shapes and tensor.shape != shapes[name]:
            problems.append(f"{name} has shape {tensor.shape}, the original's is {shapes[name]}")
        comparable = name in shapes and tensor.shape == shapes[name]
        source = arch.head if name == "output.weight" else name
        fact = tensor_fact(tensor, original.tensors[source] if comparable else None, cells)
        if fact.bad:
            problems.append(f"{name} holds {fact.bad:,} NaN or infinite values")
        facts.append(fact)
    whole = not problems
    vectors = (fact.error for fact in facts if not is_matrix(fact.shape) and fact.error is not None)
    moved = any(error > COPIED for error in vectors)
    notes = ("its head is stored apart from the embedding; the original's are one tensor",)
    return Scan(
        tuple(facts),
        tuple(problems),
        whole and (moved or rescaled(original, artifact)),
        notes if untied else (),
    )


def tensor_fact(tensor: Tensor, original: Tensor | None, cells: int) -> TensorFact:
    """Bytes, broken values, and the relative squared error against the original."""
    step = max(1, cells // tensor.cols)
    bad, change, size = 0, 0.0, 0.0
    for start in range(0, tensor.rows, step):
        values = tensor.decode(start, start + step)
        fine = np.isfinite(values)
        bad += int(values.size - np.count_nonzero(fine))
        if original is not None:
            before = original.decode(start, start + step)
            change += float(np.square(np.where(fine, values - before, 0), dtype=np.float64).sum())
            size += float(np.square(before, dtype=np.float64).sum())
    error = None if original is None else change / size if size else float(change > 0)
    copied = original is not None and is_copy(tensor, original)
    shape, kind = tuple(tensor.shape), tensor.qtype.name
    return TensorFact(tensor.name, shape, kind, tensor.nbytes, bad, error, copied=copied)


def is_copy(tensor: Tensor, original: Tensor) -> bool:
    """Whether both are packed, in one type, with the same bytes."""
    if tensor.qtype.is_float or tensor.qtype.name != original.qtype.name:
        return False
    return np.array_equal(tensor.data, original.data)


def rescaled(original: Model, artifact: Model) -> bool:
    """Whether scales or channels moved between linears: rows of one have other relative sizes than
    before.

    Coarse rounding shrinks all rows alike, which is no rescaling.
    """
    arch = original.arch
    for layer in range(arch.layers):
        spec = arch.layer(layer)
        folds = {group.fold for group in spec.groups if group.fold}
        for source in sorted(folds & spec.linears.keys()):
            name = f"blk.{layer}.{source}.weight"
            gains = channel_gains(original.tensors[name], artifact.tensors[name])
            if np.median(np.abs(gains / np.median(gains) - 1)) > MOVED:
                return True
    return False


def channel_gains(before: Tensor, after: Tensor) -> np.ndarray:
    """Least-squares gain of each row (out,): after = gain * before + rounding."""
    x, y = (tensor.decode().astype(np.float64) for tensor in (before, after))
    size = np.square(x).sum(1)
    return np.divide((x * y).sum(1), size, out=np.ones(len(size)), where=size > 0)


def weights(arch: Arch) -> int:
    """Number of weights of a model, norms and biases included."""
    return sum(int(np.prod(shape)) for shape in arch.shapes().values())
