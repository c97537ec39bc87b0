"""Read a GGUF file, ours or foreign: metadata, tensor table, and tensors mapped from disk.

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

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import FAMILIES, Arch
from runtime.blocks import BLOCKS, Block
from runtime.errors import EdgequantError
from runtime.gguf_cursor import Cursor
from runtime.model import Model
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer

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

ROPE_FACTORS = "rope_freqs.weight"
"""Tensor by which frequencies are divided (Llama 3.1's scaling): a table, not a weight."""


@dataclass(frozen=True)
class TensorInfo:
    """A line of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first: (rows, cols), or (n,)."""
    block: Block
    offset: int
    """Of the first byte, from the start of the file."""

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.rows * self.block.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class GgufFile:
    """An opened file; nothing but the header has been read."""

    path: Path
    version: int
    metadata: dict[str, Any]
    """Numbers, strings and booleans as Python values, arrays of numbers as numpy arrays."""
    tensors: dict[str, TensorInfo]
    """In file order."""
    bytes: np.ndarray = field(repr=False)
    """The whole file, mapped: uint8."""

    def packed(self, name: str) -> np.ndarray:
        """The rows of a tensor as they lie in the file: uint8 (rows, row_bytes), mapped."""
        info = self.tensors[name]
        return self.bytes[info.offset : info.offset + info.nbytes].reshape(info.rows, -1)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that starts as GGUF does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: str | Path) -> GgufFile:
    """Read the header of a file. Raises EdgequantError for one that is no GGUF, cut or damaged."""
    path = Path(path)
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise EdgequantError(f"{path} cannot be read: {error.strerror}.") from error
    cursor = Cursor(path, data.data)
    version = _check_start(cursor)
    tensor_count, pair_count = cursor.number("<u8"), cursor.number("<u8")
    cursor.need(tensor_count * SMALLEST_INFO + pair_count * SMALLEST_PAIR)
    metadata = _metadata(cursor, pair_count)
    alignment = _alignment(cursor, metadata)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors = _place(cursor, infos, start, alignment)
    return GgufFile(path, version, metadata, tensors, data)


def _check_start(cursor: Cursor) -> int:
    """The version, after the magic. Raises EdgequantError for another kind of file."""
    if bytes(cursor.view[:4]) != MAGIC:
        raise EdgequantError(f"{cursor.path} is not a GGUF file: it does not start with 'GGUF'.")
    cursor.at = 4
    version = int(cursor.number("<u4"))
    if version not in (2, 3):
        swapped = version in (2 << 24, 3 << 24)
        what = "is big-endian" if swapped else f"has GGUF version {version}"
        raise EdgequantError(
            f"{cursor.path} {what}; only little-endian files of version 2 and 3 can be read: "
            "convert the model again with a current tool."
        )
    return version


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string()
        if key in metadata:
            raise cursor.damaged(f"it has the key {key!r} twice")
        metadata[key] = _value(cursor, key, cursor.number("<u4"))
    return metadata


def _value(cursor: Cursor, key: str, kind: int) -> Any:
    """One metadata value of a type number."""
    if kind == STRING:
        return cursor.string()
    if kind == ARRAY:
        return _array(cursor, key)
    if kind not in NUMBERS:
        raise cursor.damaged(f"{key!r} has the unknown value type {kind}")
    value = cursor.number(NUMBERS[kind])
    if kind == BOOL:
        return bool(value)
    # the shortest decimal that float32 tells apart: 1e-06 and not 9.999999974752427e-07
    return float(str(np.float32(value))) if kind == FLOAT32 else value


def _array(cursor: Cursor, key: str) -> list[str] | np.ndarray:
    kind, count = cursor.number("<u4"), cursor.number("<u8")
    if kind == STRING:
        cursor.need(8 * count)
        return [cursor.string() for _ in range(count)]
    if kind == ARRAY:
        raise cursor.damaged(f"{key!r} holds arrays inside an array, which no GGUF tool writes")
    if kind not in NUMBERS:
        raise cursor.damaged(f"{key!r} holds the unknown value type {kind}")
    numbers = cursor.numbers(NUMBERS[kind], count)
    return numbers != 0 if kind == BOOL else numbers


def _alignment(cursor: Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _tensor_info(cursor: Cursor) -> TensorInfo:
    """One line of the table; its offset is still the file's, from the start of the data."""
    name, dimensions = cursor.string(), cursor.number("<u4")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise cursor.damaged(f"{name!r} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}")
    shape = tuple(int(side) for side in cursor.numbers("<u8", dimensions)[::-1])
    kind, offset = cursor.number("<u4"), cursor.number("<u8")
    block = next((b for b in BLOCKS.values() if b.ggml_type == kind), None)
    if block is None:
        known = ", ".join(b.name for b in BLOCKS.values() if b.ggml_type is not None)
        raise EdgequantError(
            f"{cursor.path} stores {name!r} as GGUF type {kind}, which cannot be read; "
            f"use a file with these types: {known}."
        )
    if 0 in shape or not block.fits(shape[-1]):
        raise cursor.damaged(f"{name!r} has shape {shape}, but {block.name} packs {block.size}")
    return TensorInfo(name, shape, block, offset)


def _place(
    cursor: Cursor, infos: list[TensorInfo], start: int, alignment: int
) -> dict[str, TensorInfo]:
    """Table by name, with offsets from the start of the file; each tensor lies within it."""
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise cursor.damaged(f"it has the tensor {info.name!r} twice")
        if info.offset % alignment:
            raise cursor.damaged(f"{info.name!r} starts at {info.offset}, not at {alignment}s")
        placed = TensorInfo(info.name, info.shape, info.block, start + info.offset)
        tensors[info.name] = placed
    cursor.need_until(max((t.offset + t.nbytes for t in tensors.values()), default=0))
    return tensors


@dataclass(frozen=True)
class GgufTensors(Mapping[str, Tensor]):
    """Runtime name -> Tensor; rows are mapped, or gathered on access where GGUF reorders them."""

    file: GgufFile
    arch: Arch
    infos: dict[str, TensorInfo]

    def __getitem__(self, name: str) -> Tensor:
        info, data = self.infos[name], self.file.packed(name)
        order = FAMILIES[self.arch.family].gguf_rows(self.arch, name)
        if order is not None:
            rows = data.reshape(len(order), -1)[np.argsort(order)]
            data = rows.reshape(data.shape)
        return Tensor(name, info.shape, info.block, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def open_gguf(path: str | Path) -> Model:
    """Open a model. Raises EdgequantError for a damaged file or a model that cannot be computed."""
    file = read(path)
    if file.metadata.get("split.count", 1) != 1:
        raise EdgequantError(f"{path} is one part of several; merge them with llama-gguf-split.")
    if file.metadata.get("general.type") == "imatrix":
        raise EdgequantError(
            f"{path} is an importance matrix and not a model; give it to `quantize run --imatrix`."
        )
    name = str(file.metadata.get("general.architecture"))
    if name not in FAMILIES:
        raise EdgequantError(
            f"{path} has the architecture {name!r}; supported: {', '.join(FAMILIES)}."
        )
    shapes = {info.name: info.shape for info in file.tensors.values()}
    factors = None
    if ROPE_FACTORS in shapes:
        table = file.tensors[ROPE_FACTORS].block.decode(file.packed(ROPE_FACTORS))
        factors = tuple(float(factor) for factor in table.reshape(-1))
    arch = FAMILIES[name].gguf_arch(file.metadata, shapes, factors)
    tokenizer = Tokenizer.from_gguf(file.metadata, arch.vocab)
    return Model(arch, GgufTensors(file, arch, _check_tensors(file, arch)), tokenizer)


def _check_tensors(file: GgufFile, arch: Arch) -> dict[str, TensorInfo]:
    """The model's tensors in file order, when they are just those that its sizes imply."""
    expected = FAMILIES[arch.family].shapes(arch)
    infos = {name: info for name, info in file.tensors.items() if name != ROPE_FACTORS}
    for name, shape in expected.items():
        if name not in infos:
            raise EdgequantError(f"{file.path} lacks {name}; convert the model again.")
        if infos[name].shape != shape:
            raise EdgequantError(
                f"{name} in {file.path} has shape {infos[name].shape}, but its metadata "
                f"implies {shape}; convert the model again."
            )
    if extra := [name for name in infos if name not in expected]:
        raise EdgequantError(
            f"{file.path} holds {len(extra)} tensors that {arch.family} does not know "
            f"({extra[0]}); leaving them out would change the model."
        )
    return infos
