"""Weights of integer codes, (code - zero) * scale, a scale for each group of a row.

They stay packed where a layout of onnx_int.py holds the very same numbers, and are float32 where
none does: a width that no block divides, or groups of scattered columns (act-order) that are not
all of one size. Other groups in act-order are packed one after the other, with the order beside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt, onnx_name
from runtime.quantized.base import check
from runtime.stored import ComputedArray, StoredArray
from runtime.tensor import Shape

FLOATS = ("F16", "BF16", "F32")
"""Types of scales."""
CHUNK = 1 << 20
ROWS = 32
"""Rows are unpacked so many at a time, or a multiple: their zero points then begin with a word."""


class Coded(NamedTuple):
    """Some rows of a weight (out, in)."""

    codes: np.ndarray
    """uint8 (rows, in)."""
    zeros: np.ndarray | None
    """uint8 (rows, groups); None: the middle of the codes."""
    scales: np.ndarray
    """float32 (rows, groups)."""


class GroupOrder(NamedTuple):
    """Groups of scattered columns."""

    g_idx: StoredArray
    """Group of each column, int32 (in,)."""
    even: bool
    """Whether every group has as many columns."""

    def groups(self) -> np.ndarray:
        """Group of each column, int32 (in,)."""
        return integers(self.g_idx)


@dataclass(frozen=True)
class Grid:
    """What is known of a weight before it is read."""

    bits: int
    group: int
    """Columns that share a scale; the last group of a row may be shorter."""
    symmetric: bool
    """Every zero point is the middle of the codes."""
    half: bool = False
    """Scales are stored in float16."""
    order: GroupOrder | None = None
    """None: one group after the other."""

    @property
    def middle(self) -> int:
        """The zero point of codes that lie around it."""
        return 1 << (self.bits - 1)

    def type_for(self, cols: int) -> str:
        """Name of the layout that holds rows of so many columns."""
        wide = next(bits for bits in (2, 4, 8) if self.bits <= bits)
        ordered = self.order is not None
        whole = self.group >= cols  # then nothing but the row's end must fall on a block's
        sizes = (s for s in (128, 64, 32) if cols % s == 0 and (whole or self.group % s == 0))
        size = next(sizes, None)
        if size is None or (self.order and not self.order.even):
            return "F32"
        return onnx_name(wide, size, self.symmetric, self.half, ordered)


@dataclass(frozen=True)
class IntegerArray(ComputedArray):
    """A weight of integer codes, in the layout that `Grid.type_for` names."""

    arrays: tuple[StoredArray, ...]
    grid: Grid
    rows: Callable[[int, int], Coded]
    """Rows start..stop."""
    chunk: int = CHUNK
    """Codes that are unpacked at a time."""

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        return self.arrays

    def order(self) -> np.ndarray | None:
        if not QUANT_TYPES[self.dtype].ordered:
            return None
        assert self.grid.order is not None
        return np.argsort(self.grid.order.groups(), kind="stable").astype(np.int32)

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,), computed now."""
        rows, cols = self.shape
        qtype = QUANT_TYPES[self.dtype]
        order = self.order()
        out: np.ndarray = np.empty((rows, qtype.row_bytes(cols)), np.uint8)
        step = max(ROWS, self.chunk // cols // ROWS * ROWS)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            coded = self.rows(start, stop)
            if order is not None:
                coded = coded._replace(codes=coded.codes[:, order])
            out[start:stop] = self._packed(coded)
        return out.reshape(-1)

    def _packed(self, coded: Coded) -> np.ndarray:
        """Rows as bytes of the layout; never rounds."""
        qtype, grid, cols = QUANT_TYPES[self.dtype], self.grid, self.shape[1]
        codes, zeros, scales = coded
        if not isinstance(qtype, OnnxInt):
            each = np.arange(cols) // grid.group if grid.order is None else grid.order.groups()
            zero = grid.middle if zeros is None else zeros[:, each].astype(np.float32)
            return qtype.pack((codes.astype(np.float32) - zero) * scales[:, each], {})
        groups = np.arange(0, cols, qtype.size) // grid.group
        params = {"scale": scales[:, groups]}
        if grid.symmetric:
            return qtype.pack(codes + np.uint8(qtype.middle - grid.middle), params)
        assert zeros is not None
        return qtype.pack(codes, params | {"zero": zeros[:, groups]})


def refuse_other_data(kind: str, data_type: str | None, way_out: str) -> None:
    """Raise UnsupportedError where codes of GPTQ or AWQ are said to be no integers."""
    if data_type not in (None, "int"):
        raise UnsupportedError(f"{kind} of {data_type} is not read, only int; {way_out}.")


def integer_array(
    shape: Shape, arrays: tuple[StoredArray, ...], grid: Grid, rows: Callable[[int, int], Coded]
) -> IntegerArray:
    """A weight (out, in) that is computed from these arrays."""
    first = arrays[0]
    type_name = grid.type_for(shape[1])
    return IntegerArray(first.file, type_name, shape, first.start, arrays, grid, rows)


def floats(array: StoredArray) -> np.ndarray:
    """An array of scales, float32 of its shape."""
    return QUANT_TYPES[array.dtype].decode(array.read().reshape(1, -1)).reshape(array.shape)


def float_columns(array: StoredArray, start: int, stop: int) -> np.ndarray:
    """Columns start..stop of a matrix of scales, float32 (rows, stop - start)."""
    rows, cols = array.shape
    item = array.nbytes // (rows * cols)
    data = array.read().reshape(rows, -1)[:, item * start : item * stop]
    return QUANT_TYPES[array.dtype].decode(np.ascontiguousarray(data))


def integers(array: StoredArray) -> np.ndarray:
    """An array of I32 or I64, of its shape."""
    kind = {"I32": "<i4", "I64": "<i8"}[array.dtype]
    return array.read().view(kind).reshape(array.shape)


def dense_fields(words: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of 1 to 8 bits that lie one behind the other, the lowest first.

    words: int32 (rows, n) -> uint8 (rows, 32 n // bits); a number may begin in one word and end in
    the next.
    """
    packed = np.ascontiguousarray(words).view(np.uint8)  # (rows, 4 n)
    if 8 % bits == 0:
        each: np.ndarray = np.empty((*packed.shape, 8 // bits), np.uint8)
        for place in range(
            8 // bits
        ):  # one long loop for each place, not a short one for each byte
            np.right_shift(packed, bits * place, out=each[..., place])
        return (each & np.uint8((1 << bits) - 1)).reshape(len(words), -1)
    count = 8 * packed.shape[1] // bits
    places = np.unpackbits(packed, axis=1, bitorder="little")[:, : count * bits]
    fields = np.packbits(places.reshape(-1, bits), axis=1, bitorder="little")
    return fields.reshape(len(words), count)


def padded_fields(words: np.ndarray, bits: int) -> np.ndarray:
    """The same of words that hold 32 // bits whole numbers each: uint8 (rows, n (32 // bits))."""
    starts = np.arange(32 // bits) * bits
    fields = np.asarray(words)[..., None] >> starts & (1 << bits) - 1
    return fields.astype(np.uint8).reshape(len(words), -1)


def group_order(name: str, g_idx: StoredArray | None, inputs: int, group: int) -> GroupOrder | None:
    """The group of each column, where they are not one behind the other.

    Raises EdgequantError for groups that are not there.
    """
    if g_idx is None:
        return None
    check(name, g_idx, (inputs,), ("I32",))
    found, groups = integers(g_idx), -(-inputs // group)
    g_idx.drop()
    if np.array_equal(found, np.arange(inputs) // group):
        return None
    if found.min() < 0 or found.max() >= groups:
        raise CorruptFileError(
            f"{name} names group {found.max()} of {groups}; download the checkpoint again."
        )
    return GroupOrder(g_idx, bool(np.all(np.bincount(found, minlength=groups) == group)))


def scattered_notes(arrays: Mapping[str, StoredArray]) -> list[str]:
    """A note where weights are in act-order."""
    found = [a for a in arrays.values() if isinstance(a, IntegerArray) and a.grid.order is not None]
    if not found:
        return []
    dense = sum(array.dtype == "F32" for array in found)
    uneven = f"; {dense} of them, of uneven groups, are read as float32" if dense else ""
    return [f"{len(found)} weights of it are in act-order{uneven}"]
