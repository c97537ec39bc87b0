"""Open a GGUF file, ours or foreign, as a model: its tensors stay mapped on disk."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import FAMILIES, Arch
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.gguf_header import MAGIC, Header, TableEntry
from runtime.gguf_joined import split
from runtime.gguf_parts import part_paths, read_parts
from runtime.gguf_scales import Scales, find_scales
from runtime.gguf_types import layout
from runtime.model import Model
from runtime.quant_types import QuantType
from runtime.reader import Reader
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class TensorInfo:
    """A line of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first: (rows, cols), or (n,)."""
    qtype: QuantType
    offset: int
    """Of the first byte, from the start of its file."""
    file: np.ndarray = field(repr=False, compare=False)
    """The whole file that it lies in, mapped: uint8."""
    path: Path = field(compare=False)
    """Of that file."""

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return self.rows * self.qtype.row_bytes(self.shape[-1])

    @property
    def packed(self) -> np.ndarray:
        """The rows as they lie in the file: uint8 (rows, row_bytes), mapped."""
        return self.file[self.offset : self.offset + self.nbytes].reshape(self.rows, -1)

    def rows_alone(self, name: str, first: int, count: int) -> "TensorInfo":
        """Some rows of a matrix as a tensor of their own."""
        columns = self.shape[-1]
        offset = self.offset + first * self.qtype.row_bytes(columns)
        return replace(self, name=name, shape=(count, columns), offset=offset)


@dataclass(frozen=True)
class GgufFile:
    """An opened file; nothing but the header has been read."""

    path: Path
    """The first file, where there are several parts."""
    version: int
    metadata: dict[str, Any]
    """Numbers, strings and booleans as Python values, arrays of numbers as numpy arrays."""
    tensors: dict[str, TensorInfo]
    """In file order."""

    def packed(self, name: str) -> np.ndarray:
        """The rows of a tensor as they lie in the file: uint8 (rows, row_bytes), mapped."""
        return self.tensors[name].packed


def read(path: str | Path) -> GgufFile:
    """Open a file, data mapped; of one part of several all parts.

    Raises EdgequantError for one that is no GGUF, is cut or damaged, or has a type without a block.
    """
    return _with_blocks(read_parts(path))


def _with_blocks(parts: Sequence[Header]) -> GgufFile:
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        placed = _place(part, [_tensor_info(part, line) for line in part.table])
        if twice := placed.keys() & tensors.keys():
            raise part.cursor.damaged(f"a part before it has the tensor {min(twice)!r}, too")
        tensors |= placed
    return GgufFile(parts[0].path, parts[0].version, parts[0].metadata, tensors)


def _tensor_info(header: Header, line: TableEntry) -> TensorInfo:
    """A line of the table with its block, placed in the file."""
    qtype = layout(line.ggml_type, f"{header.path} stores {line.name!r}")
    shape = line.shape
    if 0 in shape or not qtype.fits(shape[-1]):
        packs = f"{line.name!r} has shape {shape}, but {qtype.name} packs {qtype.size}"
        raise header.cursor.damaged(packs)
    return TensorInfo(
        line.name, shape, qtype, header.start + line.offset, header.bytes, header.path
    )


def _place(header: Header, infos: list[TensorInfo]) -> dict[str, TensorInfo]:
    """Table by name; each tensor lies within the file, right behind the one before."""
    cursor, alignment = header.cursor, header.alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise cursor.damaged(f"it has the tensor {info.name!r} twice")
        at = info.offset - header.start
        if at % alignment:
            raise cursor.damaged(f"{info.name!r} starts at {at}, not at {alignment}s")
        tensors[info.name] = info
    cursor.need_until(max((t.offset + t.nbytes for t in tensors.values()), default=0))
    for before, info in zip(infos, infos[1:], strict=False):
        end = before.offset + before.nbytes - header.start
        expected = -(-end // alignment) * alignment
        if (at := info.offset - header.start) != expected:
            # forks have other layouts under the numbers of llama.cpp's types
            behind = f"behind {before.name!r} ({before.qtype.name}) at {expected}"
            raise cursor.damaged(f"{info.name!r} starts at {at}, not {behind}")
    return tensors


@dataclass(frozen=True)
class GgufTensors(Mapping[str, Tensor]):
    """Runtime name -> Tensor; rows are mapped, or gathered on access where GGUF reorders them."""

    file: GgufFile
    arch: Arch
    infos: dict[str, TensorInfo]
    scales: Scales
    """What some tensors are multiplied by."""

    def __getitem__(self, name: str) -> Tensor:
        info = self.infos[name]
        data = info.packed
        order = FAMILIES[self.arch.family].gguf_rows(self.arch, name)
        if order is not None:
            rows = data.reshape(len(order), -1)[np.argsort(order)]
            data = rows.reshape(data.shape)
        return Tensor(name, info.shape, info.qtype, data, self.scales.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def open_tensors(path: str | Path) -> tuple[GgufTensors, Tokenizer | None]:
    """The tensors of a model, with its sizes and all metadata, and its tokenizer.

    Raises EdgequantError for a damaged file or a model that cannot be computed.
    """
    parts = read_parts(path)
    file = _with_blocks(parts)
    arch, tokenizer = _arch_and_tokenizer(parts)
    infos, scales = _check_tensors(file, arch)
    return GgufTensors(file, arch, infos, scales), tokenizer


def open_gguf(path: str | Path) -> Model:
    """Open a model. Raises as `open_tensors` does."""
    tensors, tokenizer = open_tensors(path)
    # a vocabulary's strings take 40 MB, and the tokenizer has its own
    lean = replace(tensors, file=replace(tensors.file, metadata={}))
    return Model(tensors.arch, lean, tokenizer)


def arch_and_tokenizer(path: str | Path) -> tuple[Arch, Tokenizer | None]:
    """Sizes and tokenizer alone, which a file with tensors of any type tells.

    Raises EdgequantError for a damaged header or a model that cannot be computed.
    """
    return _arch_and_tokenizer(read_parts(path))


def read_arch(path: str | Path) -> Arch:
    """Sizes alone, without the work of making a tokenizer. Raises as `arch_and_tokenizer` does."""
    return _arch(read_parts(path))


def _arch_and_tokenizer(parts: Sequence[Header]) -> tuple[Arch, Tokenizer | None]:
    arch = _arch(parts)
    return arch, Tokenizer.from_gguf(parts[0].metadata, arch.vocab)


def _arch(parts: Sequence[Header]) -> Arch:
    header = parts[0]
    path = header.path
    if header.metadata.get("general.type") == "imatrix":
        raise InputError(
            f"{path} is an importance matrix and not a model; give it to `quantize run --imatrix`."
        )
    if header.metadata.get("general.type") == "adapter":
        raise UnsupportedError(
            f"{path} is an adapter and not a model; give the whole model, or merge the "
            "adapter as PEFT saved it with --adapter."
        )
    if header.metadata.get("general.type") == "mmproj":
        raise InputError(
            f"{path} is the vision tower of a model and not the model; give the .gguf file of its "
            "language model."
        )
    name = str(header.metadata.get("general.architecture"))
    known = {family.architecture for family in FAMILIES.values()}
    if name not in known:
        raise UnsupportedError(
            f"{path} has the architecture {name!r}; supported: {', '.join(sorted(known))}."
        )
    shapes = {line.name: line.shape for part in parts for line in part.table}
    tables = [_rope_factors(parts, table) for table in FAMILIES[name].gguf_rope_tables]
    return FAMILIES[name].gguf_arch(header.metadata, shapes, *tables)


def _rope_factors(parts: Sequence[Header], name: str) -> tuple[float, ...] | None:
    """What frequencies are divided by, where the file has such a table."""
    lines = [(part, line) for part in parts for line in part.table if line.name == name]
    if not lines:
        return None
    header, line = lines[0]
    info = _tensor_info(header, line)
    stop = info.offset + info.nbytes
    header.cursor.need_until(stop)
    table = info.qtype.decode(header.bytes[info.offset : stop].reshape(info.rows, -1))
    return tuple(float(factor) for factor in table.reshape(-1))


def _check_tensors(file: GgufFile, arch: Arch) -> tuple[dict[str, TensorInfo], Scales]:
    """The model's tensors in file order, when they are just those that its sizes imply."""
    expected = arch.shapes()
    scales, beside = find_scales(file.path, file.tensors, FAMILIES[arch.family])
    infos = {
        name: info
        for name, info in split(arch, file.tensors).items()
        if name not in FAMILIES[arch.family].gguf_rope_tables and name not in beside
    }
    for name, shape in expected.items():
        if name not in infos:
            raise CorruptFileError(f"{file.path} has no tensor {name}; convert the model again.")
        if (1, *infos[name].shape) == shape:  # one row is stored as a vector
            infos[name] = replace(infos[name], shape=shape)
        if infos[name].shape != shape:
            raise CorruptFileError(
                f"{name} in {file.path} has shape {infos[name].shape}, but its metadata "
                f"implies {shape}; convert the model again."
            )
    if extra := [name for name in infos if name not in expected]:
        raise UnsupportedError(
            f"{file.path} holds {len(extra)} tensors that {arch.family} does not know "
            f"({extra[0]}); leaving them out would change the model."
        )
    return infos, scales


READER = Reader("gguf", "a .gguf file", open_gguf, magic=MAGIC, parts=part_paths)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that starts as GGUF does."""
    return READER.recognises(path)
