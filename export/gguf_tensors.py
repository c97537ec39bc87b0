"""The tensors of a GGUF file: those of the model, some of them joined, and tables of its rope."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from export.base import check_joined
from runtime.archs import FAMILIES, Arch
from runtime.gguf_joined import stacked, written
from runtime.tensor import Tensor


def tensor_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Every tensor of the file: name -> shape."""
    shapes = arch.shapes()
    own = dict(shapes)
    for name, parts in written(arch).items():
        own = {part: shape for part, shape in own.items() if part == name or part not in parts}
        own[name] = stacked(shapes, parts)
    return {name: values.shape for name, values in rope_tables(arch).items()} | own


def rope_tables(arch: Arch) -> dict[str, np.ndarray]:
    """Divisors of frequencies, by the tensors that hold them."""
    family = FAMILIES[arch.family]
    return dict(zip(family.gguf_rope_tables, family.gguf_rope(arch), strict=False))


def join(arch: Arch, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors of the file: what it holds as one waits for the last of its weights.

    Raises UnsupportedError for weights of several types in one tensor.
    """
    whole = {part: (name, parts) for name, parts in written(arch).items() for part in parts}
    waiting: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name not in whole:
            yield tensor
            continue
        waiting[tensor.name] = tensor
        name, parts = whole[tensor.name]
        if not waiting.keys() >= set(parts):
            continue
        found = [waiting.pop(part) for part in parts]
        check_joined({part.name: part.qtype for part in found}, [parts])
        rows = np.concatenate([part.data for part in found])
        yield replace(found[0], name=name, shape=(len(rows), found[0].cols), data=rows)
