"""Look at every stored tensor: NaN and infinity, names and shapes, and how far weights moved."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quantize.exact.blocks import Blocks, told
from quantize.exact.moved import Columns, Gains, folds, moved
from runtime.archs import Arch
from runtime.model import Model
from runtime.tensor import Tensor, is_matrix

CELLS = 1 << 24
"""Weights decoded at a time: 64 MiB of float32 for each of both models."""
MOVED = 0.05
"""Typical change of a channel's size among others that rounding does not explain."""
COPIED = 1e-6
"""Relative squared change of a norm or bias that half precision explains."""
OTHER = 0.5
"""That of a weight which no type here rounds so badly."""
TUNED = 0.25
"""That of one that followed a gradient: far more than any did."""


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
    """Sum of squared changes over sum of squares, scales that a norm gave away undone; None when
    the original has no such tensor."""
    kl: float | None = None
    """Mean KL of the original with only this tensor replaced, nats a token; None = not measured."""
    copied: bool = False
    """Whether it is packed in the original with the same bytes."""
    asked: str | None = None
    """The type that was asked for, where its rows could not have it."""


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
    faults: tuple[str, ...] = ()
    """Values that rounding does not explain, in sentences."""


def scan(original: Model, artifact: Model, cells: int = CELLS, tuned: bool = False) -> Scan:
    """Decode every stored tensor of the artifact beside the original's, `cells` at a time.

    Scales that moved from a norm into the linears behind it are undone. `tuned`: norms and biases
    follow a gradient, so that they are not the original's.
    """
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
    facts, faults, behind = list[TensorFact](), list[str](), Columns()
    scales = moved(original, artifact)
    for name in stored:
        tensor = artifact.tensors[name]
        if name in shapes and tensor.shape != shapes[name]:
            problems.append(f"{name} has shape {tensor.shape}, the original's is {shapes[name]}")
        comparable = name in shapes and tensor.shape == shapes[name]
        source = arch.head if name == "output.weight" else name
        before = original.tensors[source] if comparable else None
        gains = behind.of(name) if name in scales else None
        fact, blocks = tensor_fact(tensor, before, cells, scales.get(name), gains)
        if fact.bad:
            problems.append(f"{name} holds {fact.bad:,} NaN or infinite values")
        facts.append(fact)
        faults += told(blocks.out_of_line(), name) or whole_told(fact)
    vectors = [fact for fact in facts if not is_matrix(fact.shape)]
    norms = [fact for fact in vectors if fact.error is not None and fact.error > COPIED]
    whole = not problems
    between = whole and rescaled(original, artifact)
    alone = behind.faults(original)
    faults += [*vector_faults(norms, folds(original), tuned), *alone.values()]
    if between:  # what linears took up from others is not undone
        faults = []
    # a norm or bias that is merely another one moves nothing: its effect alone is what names it
    given = [n.name for n in norms if tuned or n.name in folds(original).keys() - alone.keys()]
    notes = ["its head is stored apart from the embedding; the original's are one tensor"] * untied
    return Scan(
        tuple(facts),
        tuple(problems),
        whole and (bool(given) or between),
        (*notes, *[BETWEEN] * between),
        tuple(faults),
    )


BETWEEN = (
    "scales or channels were moved between linears, so that the error of single blocks was not "
    "looked at"
)


def whole_told(fact: TensorFact) -> list[str]:
    """A sentence for a weight that is not rounded, but another one."""
    if not is_matrix(fact.shape) or fact.error is None or fact.error < OTHER:
        return []
    return [f"{fact.name} differs from the original's by {fact.error**0.5:.2g} of its size"]


def vector_faults(changed: list[TensorFact], folds: Mapping[str, object], tuned: bool) -> list[str]:
    """A sentence for each norm and bias that is not the original's, and must be."""
    limit = TUNED if tuned else COPIED
    return [
        f"{fact.name} is not the original's: it differs by {(fact.error or 0) ** 0.5:.2g} of its "
        "size, and nothing is said to have changed it"
        for fact in changed
        if (fact.error or 0) > limit and fact.name not in folds
    ]


def tensor_fact(
    tensor: Tensor,
    original: Tensor | None,
    cells: int,
    scale: np.ndarray | None = None,
    gains: Gains | None = None,
) -> tuple[TensorFact, Blocks]:
    """Bytes, broken values, and the relative squared errors against the original.

    `scale` (in,) is what its columns were multiplied by, and `gains` is told what they became.
    """
    step = max(1, cells // tensor.cols)
    bad, change, size = 0, 0.0, 0.0
    blocks = Blocks(tensor.cols)
    for start in range(0, tensor.rows, step):
        values = tensor.decode(start, start + step)
        fine = np.isfinite(values)
        bad += int(values.size - np.count_nonzero(fine))
        if original is None:
            continue
        before = original.decode(start, start + step)
        if scale is not None:
            before = before * scale
        if gains is not None:
            gains.add(np.where(fine, values, 0), before)
        differs = np.where(fine, values - before, 0)
        change += float(np.square(differs, dtype=np.float64).sum())
        size += float(np.square(before, dtype=np.float64).sum())
        if tensor.is_matrix:
            blocks.add(differs, before)
    error = None if original is None else change / size if size else float(change > 0)
    copied = original is not None and is_copy(tensor, original)
    shape, kind = tuple(tensor.shape), tensor.qtype.name
    fact = TensorFact(tensor.name, shape, kind, tensor.nbytes, bad, error, copied=copied)
    return fact, blocks


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
