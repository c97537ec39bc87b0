"""Weights of one input that a container stores as one tensor: the rows of each below the others.

A table says which: name of the tensor -> its weights, in the order of their rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from export.base import check_joined
from runtime.archs import Arch
from runtime.errors import UnsupportedError
from runtime.gguf_joined import stacked
from runtime.tensor import Shape, Tensor

Table = Mapping[str, tuple[str, ...]]


@cache
def of_checkpoint(arch: Arch) -> Table:
    """The table of a Hugging Face checkpoint; a tensor is called as the first of its weights is.

    Kept, as a preset asks for it once for every weight.
    """
    rows, names = arch.hf_rows(), arch.hf_names()
    whole: dict[str, list[str]] = {}
    for name in sorted(rows, key=lambda name: rows[name]):
        whole.setdefault(names[name], []).append(name)
    return {parts[0]: tuple(parts) for parts in whole.values()}


def joined_shapes(shapes: Mapping[str, Shape], table: Table) -> dict[str, Shape]:
    """Every tensor that is stored: name -> shape."""
    own = dict(shapes)
    for name, parts in table.items():
        own = {part: shape for part, shape in own.items() if part == name or part not in parts}
        own[name] = stacked(shapes, parts)
    return own


def join(table: Table, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors that are stored: one of several weights waits for the last of them.

    Raises UnsupportedError for weights of several types, or packed in several orders of their
    columns, in one tensor.
    """
    whole = {part: (name, parts) for name, parts in table.items() for part in parts}
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
        orders = {None if part.order is None else part.order.tobytes() for part in found}
        if len(orders) > 1:
            raise UnsupportedError(
                f"{', '.join(parts)} are stored as one tensor, but their columns are packed in "
                "several orders (act-order); quantize the model from its full-precision weights."
            )
        rows = np.concatenate([part.data for part in found])
        yield replace(found[0], name=name, shape=(len(rows), found[0].cols), data=rows)
