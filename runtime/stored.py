"""Tensors put together from the arrays that a container stores.

    file -> StoredArray -> join -> Tensor

A weight may be one array, one for each expert, or codes, scales and zero points: `Parts` says which
arrays hold it and how they are joined, and is all that a format has to say of its weights.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.errors import CorruptFileError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Shape, Tensor, rows_and_cols, stored_bytes

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1} | {
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of a number, by safetensors' name of its type, which is used for every container."""


@dataclass
class MappedFile:
    """A file that is mapped when the first of its arrays is read."""

    path: Path

    @cached_property
    def mapping(self) -> mmap.mmap:
        """The whole file, read-only. Raises OSError or ValueError where that cannot be."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def view(self, start: int, stop: int) -> np.ndarray:
        """Bytes start..stop: uint8, read-only.

        Raises EdgequantError for a file that was taken away or cut since its header was read.
        """
        try:
            return np.frombuffer(self.mapping, np.uint8, stop - start, start)
        except (OSError, ValueError) as error:
            raise CorruptFileError(
                f"{self.path} changed after it was opened ({error}); open it again."
            ) from error

    def drop(self, start: int, stop: int) -> None:
        """Give back the pages that bytes start..stop lie in: they are read again on next access."""
        if "mapping" in self.__dict__ and hasattr(mmap, "MADV_DONTNEED"):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_DONTNEED, page, stop - page)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, not read yet."""

    file: MappedFile
    dtype: str
    """As in ITEM_BYTES."""
    shape: Shape
    start: int
    """Of its first byte, from the start of the file."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,), mapped."""
        if not self.nbytes:
            return np.zeros(0, np.uint8)
        data = self.file.view(self.start, self.start + self.nbytes)
        # kernels load whole numbers, and old writers put an array at any byte
        return data if self.start % ITEM_BYTES[self.dtype] == 0 else data.copy()

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """The bytes of some rows of its last axis: uint8 (rows, row bytes), mapped."""
        row = self.shape[-1] * ITEM_BYTES[self.dtype]
        part = replace(self, shape=(stop - start, self.shape[-1]), start=self.start + start * row)
        return part.read().reshape(stop - start, row)

    def drop(self) -> None:
        """Give back the memory of the pages that were read."""
        if self.nbytes:
            self.file.drop(self.start, self.start + self.nbytes)

    @property
    def sources(self) -> tuple["StoredArray", ...]:
        """The arrays in files that it is made of: itself."""
        return (self,)

    @property
    def held(self) -> int:
        """Bytes in memory once it is read, with what it was made of."""
        return self.nbytes

    def order(self) -> np.ndarray | None:
        """See `Tensor.order`."""
        return None


@dataclass(frozen=True)
class ComputedArray(StoredArray):
    """An array that lies in no file: it is computed from others each time it is read.

    `dtype` is any name of QUANT_TYPES; `file` and `start` are those of the first of its parts.
    """

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        """The arrays that it is computed from."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return stored_bytes(QUANT_TYPES[self.dtype], self.shape)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        row = QUANT_TYPES[self.dtype].row_bytes(self.shape[-1])
        return self.read().reshape(-1, row)[start:stop]

    def drop(self) -> None:
        for part in self.parts:
            part.drop()

    @property
    def sources(self) -> tuple[StoredArray, ...]:
        return tuple(source for part in self.parts for source in part.sources)

    @property
    def held(self) -> int:
        return self.nbytes + sum(source.nbytes for source in self.sources)


class Expected(NamedTuple):
    """What an array must be."""

    shape: Shape
    dtypes: tuple[str, ...]
    """Those that it may have."""


Join = Callable[[str, Shape, list[StoredArray]], Tensor]
"""A tensor from its name, its shape and the arrays that hold it. Reads the arrays."""


def rows_of(name: str, shape: Shape, arrays: list[StoredArray]) -> Tensor:
    """Arrays of one type, each the next rows of a tensor: the whole of it, or an expert."""
    data = arrays[0].read() if len(arrays) == 1 else np.concatenate([a.read() for a in arrays])
    rows, _ = rows_and_cols(shape)
    qtype, order = QUANT_TYPES[arrays[0].dtype], arrays[0].order()
    return Tensor(name, shape, qtype, data.reshape(rows, -1), order=order)


@dataclass(frozen=True)
class Parts:
    """How one weight is stored."""

    shape: Shape
    """Of the weight."""
    arrays: Mapping[str, Expected]
    """The arrays that hold it, by their names in the container, as `join` takes them."""
    join: Join = rows_of
    places: tuple[int, int] | None = None
    """Of experts in one array: the first row of the first, and how many rows on the next begins.
    None where each has an array of its own."""


class StoredTensors(Mapping[str, Tensor]):
    """Runtime name -> Tensor, put together on access.

    What was read of a tensor leaves memory when the next one is asked for, so that who goes through
    a model holds one tensor of it; who holds several reads their pages again where they are used.
    """

    def __init__(self, weights: Mapping[str, Parts], arrays: Mapping[str, StoredArray]) -> None:
        self.weights, self.arrays = weights, arrays
        self._last: list[StoredArray] = []
        self._types: dict[str, QuantType] = {}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every weight, without reading it."""
        return {name: parts.shape for name, parts in self.weights.items()}

    def nbytes(self, name: str) -> int:
        """Bytes that a weight takes once it is read, without reading it."""
        return sum(self.arrays[part].held for part in self.weights[name].arrays)

    def qtype(self, name: str) -> QuantType:
        """The type of a weight; it is read, once, where its arrays do not tell."""
        if name not in self._types:
            parts = self.weights[name]
            alike = parts.join is rows_of or len(parts.arrays) == 1
            known = QUANT_TYPES.get(self.arrays[next(iter(parts.arrays))].dtype) if alike else None
            self._types[name] = known or self[name].qtype
        return self._types[name]

    def __getitem__(self, name: str) -> Tensor:
        parts = self.weights[name]
        for array in self._last:
            array.drop()
        self._last = [self.arrays[part] for part in parts.arrays]
        return parts.join(name, parts.shape, self._last)

    def matrix(self, name: str, expert: int) -> Tensor:
        """The matrix of one expert of a weight (experts, rows, cols), read alone if it can be."""
        parts = self.weights[name]
        if parts.places is None and len(parts.arrays) == 1:
            return self[name].matrix(expert)
        _, rows, cols = parts.shape
        for read in self._last:
            read.drop()
        arrays = [self.arrays[part] for part in parts.arrays]
        first, step = parts.places or (0, 0)
        array = arrays[0] if parts.places else arrays[expert]
        self._last = [array]
        data = array.read_rows(first + expert * step, first + expert * step + rows)
        return Tensor(name, (rows, cols), QUANT_TYPES[array.dtype], data)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)
