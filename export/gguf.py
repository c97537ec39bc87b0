"""Write a GGUF file that llama.cpp and what is built on it load.

    header     counts, metadata (sizes, tokenizer, provenance), the tensor table
    data       one tensor after the other, each at a multiple of 32 bytes

Tensors pass through one at a time. How long the table is depends on names and shapes only, so room
is left for it, and it is written when every tensor's type and place are known.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGUFValueType, GGUFWriter

from export.base import Container, check_complete, check_tensor
from export.files import new_file
from export.gguf_general import maker, provenance
from export.gguf_hashes import room, seal, verify
from export.gguf_presets import PRESETS
from export.gguf_stated import all_metadata, stated
from export.gguf_tensors import rope_tables, tensor_shapes
from export.gguf_vocab import vocabulary
from export.hashes import digest, mapped_digest
from export.joined import join
from export.ollama import MODELFILE
from runtime.archs import FAMILIES, Arch
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_file import READER, read
from runtime.gguf_header import ALIGNMENT
from runtime.gguf_joined import written
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.read_only import ReadOnly
from runtime.tensor import Tensor, is_matrix, stored_bytes
from runtime.tokenizer import Tokenizer

COUNTS = 24
"""Bytes before the metadata: magic, version, number of tensors, number of pairs."""

USAGE = """```sh
llama-cli -m {file} -p "Once upon a time"
quantize generate {file} "Once upon a time"
ollama create {model} -f {companion}
```"""


def write(
    path: Path,
    arch: Arch,
    tensors: Iterable[Tensor],
    source: Path,
    extra: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write the file `path` from tensors in any order; norms and biases are stored as F32.

    `source` is the checkpoint's folder (tokenizer, config), `extra` becomes "edgequant.*" metadata;
    keys that start with llama.cpp's "quantize." stay as they are.
    Raises EdgequantError when the file exists, the disk is too small, a tensor is missing or of a
    type that GGUF cannot hold, the tokenizer or the rope scaling has no name in GGUF, or the
    written file does not read back as it was meant.
    """
    path, source, family = Path(path), Path(source), FAMILIES[arch.family]
    metadata = all_metadata(arch, source, extra)
    tables = (Tensor.dense(name, values) for name, values in rope_tables(arch).items())
    stored = (_stored(arch, tensor) for tensor in chain(tables, tensors))
    with new_file(path, overwrite, needed=least_bytes(arch)) as temp:
        write_file(
            temp, family.architecture, metadata, tensor_shapes(arch), join(written(arch), stored)
        )


def write_file(
    path: Path,
    architecture: str,
    metadata: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
) -> None:
    """Fill the file `path` with these metadata and all tensors of `shapes`, as they come.

    Raises EdgequantError for a missing or unfit tensor, and a file that reads back otherwise.
    """
    table_at = _write_metadata(path, architecture, metadata | room(len(shapes)), shapes)
    with path.open("r+b") as file:
        data = _Data(file, table_at, shapes)
        for tensor in tensors:
            data.add(tensor)
        data.finish()
        seal(file, table_at, data.start, list(data.sums.values()))
    check(path, metadata, data.sums)


def size(arch: Arch, types: Mapping[str, QuantType], source: Path, extra: dict[str, Any]) -> int:
    """Bytes of the file that `write` makes when its 2-D weights have these types."""
    shapes = tensor_shapes(arch)
    architecture = FAMILIES[arch.family].architecture
    metadata = {"general.architecture": architecture} | all_metadata(arch, Path(source), extra)
    metadata |= room(len(shapes))
    table_at = COUNTS + sum(_bytes(key) + 4 + _bytes(value) for key, value in metadata.items())
    return _data_start(table_at, shapes) + expected_bytes(arch, types)


def _bytes(value: Any) -> int:
    """Bytes of a metadata value in the file, without its type: see runtime/gguf_header.py."""
    if isinstance(value, str):
        return 8 + len(value.encode())
    if isinstance(value, list):
        return 12 + sum(map(_bytes, value))
    return 1 if isinstance(value, bool) else 4


def expected_bytes(arch: Arch, layouts: Mapping[str, QuantType]) -> int:
    """Bytes of a file's tensors; `layouts` gives the type of each 2-D one, the others are F32.

    The header comes on top: a few megabytes, nearly all of it the tokenizer.
    """
    return sum(
        _padded(stored_bytes(layouts[name] if is_matrix(shape) else QUANT_TYPES["F32"], shape))
        for name, shape in tensor_shapes(arch).items()
    )


def least_bytes(arch: Arch) -> int:
    """Bytes of the tensors in the smallest type: all that is known before the first one comes."""
    smallest = min(
        (b for b in QUANT_TYPES.values() if b.ggml_type is not None), key=lambda qtype: qtype.bits
    )
    return int(sum(map(math.prod, tensor_shapes(arch).values())) * smallest.bits / 8)


def _write_metadata(
    path: Path, family: str, metadata: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """Write the counts and the metadata pairs; returns where the tensor table starts."""
    with closing(GGUFWriter(path, family)) as writer:
        for key, value in metadata.items():
            value_type, inner = _value_type(value)
            writer.add_key_value(key, value, value_type, inner)
        for name, shape in shapes.items():  # the header holds their number
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
    return path.stat().st_size


def _value_type(value: Any) -> tuple[GGUFValueType, GGUFValueType | None]:
    """GGUF's type of a value, and of a list's elements. Our numbers are all 32 bits wide."""
    if isinstance(value, list):
        # llama.cpp reads lists of ids and token types as signed numbers
        inner = GGUFValueType.INT32 if isinstance(value[0], int) else _value_type(value[0])[0]
        return GGUFValueType.ARRAY, inner
    kinds = {
        bool: GGUFValueType.BOOL,
        int: GGUFValueType.UINT32,
        float: GGUFValueType.FLOAT32,
        str: GGUFValueType.STRING,
    }
    if isinstance(value, int) and value < 0:
        return GGUFValueType.INT32, None
    return kinds[type(value)], None


def _stored(arch: Arch, tensor: Tensor) -> Tensor:
    """A tensor as GGUF keeps it: its own order of rows, and F32 for norms and biases."""
    if not tensor.is_matrix and tensor.qtype.name != "F32":
        tensor = Tensor.dense(tensor.name, tensor.decode())
    order = FAMILIES[arch.family].gguf_rows(arch, tensor.name)
    if order is None:
        return tensor
    rows = tensor.data.reshape(len(order), -1)[order]  # one element a row in a bias
    return replace(tensor, data=rows.reshape(tensor.data.shape))


@dataclass
class _Data:
    """The tensor table and the data after it."""

    file: BinaryIO
    table_at: int
    shapes: Mapping[str, tuple[int, ...]]
    entries: dict[str, tuple[QuantType, int]] = field(default_factory=dict)
    """Type and offset of each tensor so far, in file order."""
    sums: dict[str, str] = field(default_factory=dict)
    """Hash of each tensor's bytes."""

    def __post_init__(self) -> None:
        self.start = _data_start(self.table_at, self.shapes)
        self.file.seek(self.start)

    def add(self, tensor: Tensor) -> None:
        """Append a tensor. Raises EdgequantError for one that has no place in the file."""
        self._check(tensor)
        raw = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8).data
        self.entries[tensor.name] = (tensor.qtype, self.file.tell() - self.start)
        self.sums[tensor.name] = digest(raw)
        self.file.write(raw)
        self.file.write(bytes(_padded(raw.nbytes) - raw.nbytes))

    def _check(self, tensor: Tensor) -> None:
        check_tensor(tensor, self.shapes, self.entries)
        if tensor.qtype.ggml_type is None:
            known = ", ".join(b.name for b in QUANT_TYPES.values() if b.ggml_type is not None)
            raise UnsupportedError(
                f"{tensor.name} is {tensor.qtype.name}, which GGUF cannot hold; "
                f"choose one of {known}."
            )

    def finish(self) -> None:
        """Write the table. Raises EdgequantError when a tensor never came."""
        check_complete(self.shapes, self.entries)
        self.file.seek(self.table_at)
        for name, (qtype, offset) in self.entries.items():
            self.file.write(_entry(name, self.shapes[name], qtype.ggml_type or 0, offset))


def _entry(name: str, shape: tuple[int, ...], ggml_type: int, offset: int) -> bytes:
    """One line of the tensor table; see runtime/gguf_header.py."""
    shape = shape[1:] if len(shape) == 2 and shape[0] == 1 else shape  # one row is a vector
    text = name.encode()
    head = struct.pack("<Q", len(text)) + text
    sides = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return head + sides + struct.pack("<IQ", ggml_type, offset)


def _data_start(table_at: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Where the first tensor stands."""
    return _padded(table_at + sum(len(_entry(n, shape, 0, 0)) for n, shape in shapes.items()))


def _padded(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def check(path: Path, metadata: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Reopen a file: every metadata value and each tensor's hash are what was meant.

    Raises EdgequantError naming the first that differs.
    """
    file = read(path)
    for key, value in metadata.items():
        if not _same(file.metadata.get(key), value):
            raise _differs(key)
    for name, expected in sums.items():
        if mapped_digest(file.packed(name)) != expected:
            raise _differs(name)


def _same(found: Any, meant: Any) -> bool:
    """Whether a value read back is the one meant; floats are stored in 32 bits."""
    if isinstance(meant, list) and isinstance(found, np.ndarray):
        return np.array_equal(found, np.array(meant, found.dtype))
    if isinstance(meant, float) and isinstance(found, float):
        return np.float32(found) == np.float32(meant)
    return bool(found == meant)


def _differs(what: str) -> CorruptFileError:
    return CorruptFileError(
        f"{what} does not read back as it was written; check the disk and write again."
    )


def read_back(arch: Arch, source: Path) -> Tokenizer | None:
    """The tokenizer of `source` as a reader of the file will have it. Errors as of `vocabulary`."""
    table = vocabulary(source, arch.vocab)
    lists = {key: value for key, value in table.items() if isinstance(value, list) and value}
    numbers = {k: np.array(v) for k, v in lists.items() if not isinstance(v[0], str)}
    return Tokenizer.from_gguf(table | numbers, arch.vocab)


Container(
    READER,
    suffix=".gguf",
    widest="F16",
    holds=lambda qtype: qtype.ggml_type is not None and not isinstance(qtype, ReadOnly),
    presets=PRESETS,
    write=write,
    size=size,
    provenance=provenance,
    maker=maker,
    stated=stated,
    verify=verify,
    joined=lambda arch: written(arch).values(),
    refuse=lambda arch: FAMILIES[arch.family].gguf_keys(arch),
    tokenizer=read_back,
    context=lambda arch: FAMILIES[arch.family].gguf_context(arch),
    cut="llama.cpp has no sliding windows in such a model and sees what they hide from there on",
    companion=MODELFILE,
    usage=USAGE,
)
