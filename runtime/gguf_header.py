"""Read what stands before the data of a GGUF file: metadata and tensor table.

    bytes 0..3    "GGUF"
    bytes 4..7    version: 2 or 3, uint32; every number is little-endian
    bytes 8..15   number of tensors, uint64
    bytes 16..23  number of metadata pairs, uint64
    pairs         key (string), value type (uint32), value
    tensor table  name (string), dimensions (uint32), their sizes with the shortest stride first
                  (uint64 each), type (uint32), offset from the start of the data (uint64)
    data          starts at a multiple of `general.alignment` (32 bytes unless it is given)

A string is its length (uint64) and UTF-8 bytes; an array is an element type (uint32), a count
(uint64) and the elements. Every length is compared with the file before anything is read or made.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError, UnsupportedError
from runtime.gguf_cursor import Cursor
from runtime.gguf_metadata import check_kinds

MAGIC = b"GGUF"
ALIGNMENT = 32
"""Bytes; where the file does not give another."""

NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1"} | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Metadata value type -> numpy type."""

FLOAT32, BOOL, STRING, ARRAY = 6, 7, 8, 9

SMALLEST_PAIR = 8 + 4 + 1
SMALLEST_INFO = 8 + 4 + 8 + 4 + 8
"""Bytes of the shortest metadata pair and of the shortest line of the tensor table."""

MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class TableEntry:
    """A line of the tensor table as it stands, of a type that need not be known here."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    """Number of the type."""
    offset: int
    """From the start of the data."""


@dataclass(frozen=True)
class Header:
    """All that stands before the data."""

    path: Path
    version: int
    metadata: dict[str, Any]
    """Numbers, strings and booleans as Python values, arrays of numbers as numpy arrays."""
    table: list[TableEntry]
    alignment: int
    start: int
    """Of the data, from the start of the file."""
    cursor: Cursor = field(repr=False)
    bytes: np.ndarray = field(repr=False)
    """The whole file, mapped: uint8."""


def read_header(path: str | Path) -> Header:
    """Read what stands before the data, whatever the tensors' types.

    Raises EdgequantError for a file that is no GGUF, cut or damaged.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    cursor = Cursor(path, data.data)
    version = _check_start(cursor)
    tensor_count, pair_count = cursor.number("<u8"), cursor.number("<u8")
    cursor.need(tensor_count * SMALLEST_INFO + pair_count * SMALLEST_PAIR)
    metadata = _metadata(cursor, pair_count)
    check_kinds(path, metadata)
    alignment = _alignment(cursor, metadata)
    table = [_line(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    return Header(path, version, metadata, table, alignment, start, cursor, data)


def _check_start(cursor: Cursor) -> int:
    """The version, after the magic. Raises EdgequantError for another kind of file."""
    if bytes(cursor.view[:4]) != MAGIC:
        raise InputError(f"{cursor.path} is not a GGUF file: it does not start with 'GGUF'.")
    cursor.at = 4
    version = int(cursor.number("<u4"))
    if version not in (2, 3):
        swapped = version in (2 << 24, 3 << 24)
        what = "is big-endian" if swapped else f"has GGUF version {version}"
        raise UnsupportedError(
            f"{cursor.path} {what}; only little-endian files of version 2 and 3 can be read: "
            "convert the model again with a current tool."
        )
    return version


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.name()
        if key in metadata:
            raise cursor.damaged(f"it has the key {key!r} twice")
        metadata[key] = _value(cursor, key, cursor.number("<u4"))
    return metadata


def _value(cursor: Cursor, key: str, value_type: int) -> Any:
    """One metadata value of a type number."""
    if value_type == STRING:
        return cursor.string()
    if value_type == ARRAY:
        return _array(cursor, key)
    if value_type not in NUMBERS:
        raise cursor.damaged(f"{key!r} has the unknown value type {value_type}")
    value = cursor.number(NUMBERS[value_type])
    if value_type == BOOL:
        return bool(value)
    # the shortest decimal that float32 tells apart: 1e-06 and not 9.999999974752427e-07
    return float(str(np.float32(value))) if value_type == FLOAT32 else value


def _array(cursor: Cursor, key: str) -> list[str] | np.ndarray:
    value_type, count = cursor.number("<u4"), cursor.number("<u8")
    if value_type == STRING:
        cursor.need(8 * count)
        return cursor.strings(count)
    if value_type == ARRAY:
        raise cursor.damaged(f"{key!r} holds arrays inside an array, which no GGUF tool writes")
    if value_type not in NUMBERS:
        raise cursor.damaged(f"{key!r} holds the unknown value type {value_type}")
    numbers = cursor.numbers(NUMBERS[value_type], count)
    return numbers != 0 if value_type == BOOL else numbers


def _alignment(cursor: Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _line(cursor: Cursor) -> TableEntry:
    """The next line of the table."""
    name, dimensions = cursor.name(), cursor.number("<u4")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise cursor.damaged(f"{name!r} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}")
    shape = tuple(int(side) for side in cursor.numbers("<u8", dimensions)[::-1])
    return TableEntry(name, shape, cursor.number("<u4"), cursor.number("<u8"))
