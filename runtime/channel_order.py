"""Act-order that a model absorbs: channels inside a gated MLP, in the order of who reads them.

    y = down(activation(gate(x)) * up(x))

What is between can have its channels in any order. Where the columns of `down` are packed in an
order of their own (`Tensor.order`), they stay as they are packed, and the rows of `gate` and `up`
take that order too: the layer computes the same, and nothing has to be said about columns any more.
Of an attention's output that is not so: a channel of it belongs to a head, and query heads share
values.
"""

from dataclasses import dataclass

import numpy as np

from runtime.archs import Arch
from runtime.quant_types import QUANT_TYPES
from runtime.stored import ComputedArray, MappedFile, StoredArray, StoredTensors, rows_of
from runtime.tensor import Shape


@dataclass(frozen=True)
class AsPacked(ComputedArray):
    """A weight in act-order whose columns are taken as they are packed."""

    array: StoredArray

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        return (self.array,)

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,)."""
        return self.array.read()


@dataclass(frozen=True)
class RowsInOrder(ComputedArray):
    """A weight or bias whose rows come in the order of another weight's columns."""

    array: StoredArray
    ordering: StoredArray

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        return (self.array, self.ordering)

    def order(self) -> np.ndarray | None:
        return self.array.order()  # of its own columns

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,), copied."""
        rows = self.array.read().reshape(self.shape[0], -1)
        taken: np.ndarray = rows[self.ordering.order()]
        return taken.reshape(-1)


def absorbed(arch: Arch, tensors: StoredTensors) -> tuple[StoredTensors, int]:
    """The same model in as little act-order as it can be written in, and how many weights left it.

    Weights that are put together from several arrays stay as they are.
    """
    arrays, count = dict(tensors.arrays), 0
    for index in range(arch.layers):
        spec = arch.layer(index)
        for reader, writers in spec.channels.items():
            stem = f"blk.{index}."
            rows = [f"{stem}{writer}.{kind}" for writer in writers for kind in ("weight", "bias")]
            names = [f"{stem}{reader}.weight", *(name for name in rows if name in tensors.weights)]
            whole = [array for name in names if (array := _only_array(tensors, name))]
            if len(whole) < len(names):
                continue
            down, *before = whole
            ordering = arrays[down]
            if not QUANT_TYPES[ordering.dtype].ordered:
                continue
            arrays[down] = AsPacked(
                *_place(ordering, QUANT_TYPES[ordering.dtype].unordered.name), ordering
            )
            for name in before:
                own = arrays[name]
                arrays[name] = RowsInOrder(*_place(own, own.dtype), own, ordering)
            count += 1
    return StoredTensors(tensors.weights, arrays), count


def _place(array: StoredArray, dtype: str) -> tuple[MappedFile, str, Shape, int]:
    """What an array computed from another one has of that one."""
    return array.file, dtype, array.shape, array.start


def _only_array(tensors: StoredTensors, name: str) -> str | None:
    """The array that holds all of a tensor; None where it is put together."""
    parts = tensors.weights[name]
    return next(iter(parts.arrays)) if parts.join is rows_of and len(parts.arrays) == 1 else None
