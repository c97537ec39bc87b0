"""Arrays of a checkpoint under other names than expected: prefixes, and a head of its own."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from runtime.archs import Arch
from runtime.archs.base import EMBEDDING, HF_GLOBALS, OUTPUT
from runtime.quant_types import QUANT_TYPES
from runtime.stored import Expected, Parts, StoredArray, rows_of
from runtime.tensor import Shape, Tensor

FLOATS = ("F32", "F16", "BF16")
"""Types of full precision."""
CHUNK = 1 << 22
"""Values that are compared at a time."""


def unwrapped(arrays: dict[str, StoredArray]) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays without a prefix that wrapping put before every name, and a note of it."""
    last = HF_GLOBALS[EMBEDDING].rpartition("model.")[2]
    found = [name for name in arrays if name == last or name.endswith(f".{last}")]
    if len(found) != 1 or found[0] == HF_GLOBALS[EMBEDDING]:
        return arrays, []
    bare = not found[0].endswith(HF_GLOBALS[EMBEDDING])
    prefix = found[0].removesuffix(last if bare else HF_GLOBALS[EMBEDDING])
    head = HF_GLOBALS[OUTPUT]

    def plain(name: str) -> str:
        name = name.removeprefix(prefix)
        return f"model.{name}" if bare and name != head else name

    if not all(name.startswith(prefix) or name == head for name in arrays):
        return arrays, []
    told = f"the prefix {prefix} was taken off" if prefix else "model. was put before"
    return {plain(name): array for name, array in arrays.items()}, [f"{told} every tensor's name"]


def fused_experts(shape: Shape, hf_name: str, arrays: Mapping[str, StoredArray]) -> Parts | None:
    """A weight (experts, out, in) in the arrays of all experts that transformers 5 writes:
    `gate_up_proj` (experts, 2 x inner, in), the gate's rows first, and `down_proj`. None where they
    are not there."""
    start, _, last = hf_name.partition("{expert}.")
    part = last.removesuffix("_proj.weight")
    name = f"{start}{'down' if part == 'down' else 'gate_up'}_proj"
    if name not in arrays:
        return None
    if part == "down":
        return Parts(shape, {name: Expected(shape, FLOATS)})
    experts, inner, inputs = shape
    first = 0 if part == "gate" else inner

    def half(name: str, shape: Shape, found: list[StoredArray]) -> Tensor:
        (array,) = found
        rows = array.read().reshape(experts, 2 * inner, -1)[:, first : first + inner]
        data = np.ascontiguousarray(rows).reshape(experts * inner, -1)
        return Tensor(name, shape, QUANT_TYPES[array.dtype], data)

    return Parts(shape, {name: Expected((experts, 2 * inner, inputs), FLOATS)}, half)


def with_own_head(arch: Arch, arrays: Mapping[str, StoredArray]) -> tuple[Arch, list[str]]:
    """The sizes, with a head of its own where the file has one that is not the embedding."""
    head, embedding = arrays.get(HF_GLOBALS[OUTPUT]), arrays.get(HF_GLOBALS[EMBEDDING])
    if not arch.tied or head is None or embedding is None or _equal(head, embedding):
        return arch, []
    return replace(arch, tied=False), [
        f"config.json has tie_word_embeddings true, but {HF_GLOBALS[OUTPUT]} in the file is not "
        "the embedding: it is used, as transformers does"
    ]


def _equal(one: StoredArray, other: StoredArray) -> bool:
    """Whether two float arrays hold the same values, or cannot be compared here."""
    floats = one.dtype in FLOATS and other.dtype in FLOATS
    if one.shape != other.shape or len(one.shape) != 2 or not floats:
        return one.shape == other.shape
    tensors = [rows_of(OUTPUT, one.shape, [array]) for array in (one, other)]
    step = max(1, CHUNK // one.shape[1])
    starts = range(0, one.shape[0], step)
    same = all(
        np.array_equal(tensors[0].decode(at, at + step), tensors[1].decode(at, at + step))
        for at in starts
    )
    for array in (one, other):
        array.drop()
    return same
