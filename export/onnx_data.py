"""The weights of an ONNX folder: which arrays they become, and where each stands in the data file.

    model.onnx.data    every array at a multiple of `alignment` bytes; the gaps read as zeros
                       weights in the order in which they came, then the tables of each rope

`size` of the container counts these arrays before there is a file, `write` fills them.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import genai, onnx_graph, onnx_nodes
from export.hashes import DIGITS
from runtime.archs import Arch
from runtime.errors import UnsupportedError
from runtime.onnx_file import matrices
from runtime.quant_types import QuantType
from runtime.quant_types.onnx_int import OnnxInt
from runtime.rope import Rope
from runtime.tensor import Shape, Tensor, is_matrix

DATA = "model.onnx.data"

ALIGNMENT = 4096
"""Bytes: a tensor starts on a page, so that onnxruntime can map it."""

ROWS_AT_ONCE = 4096
"""Rows of a float weight, or positions of the rope tables, that stand in memory at a time."""

SINGLE: np.dtype = np.dtype("<f4")
BYTE: np.dtype = np.dtype(np.uint8)
COUNT: np.dtype = np.dtype("<i4")


@dataclass(frozen=True)
class Array:
    """One array of the data file."""

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without the gap before it."""
        return math.prod(self.dims) * self.dtype.itemsize


def weight_arrays(name: str, shape: tuple[int, ...], qtype: QuantType) -> list[Array]:
    """What ONNX stores for a tensor, each expert apart; floats become float32.

    Raises EdgequantError for a type that ONNX cannot hold.
    """
    parts = matrices(name, shape).items()
    return [array for part in parts for array in _matrix_arrays(*part, qtype)]


def _matrix_arrays(name: str, shape: Shape, qtype: QuantType) -> list[Array]:
    if isinstance(qtype, OnnxInt) and is_matrix(shape):
        rows, blocks = shape[0], shape[1] // qtype.size
        whole = (rows, blocks * qtype.code_bytes)
        codes = whole if name == onnx_nodes.EMBEDDING else (rows, blocks, qtype.code_bytes)
        zeros = (rows, -(-blocks * qtype.code_bits // 8))
        dims, kinds = (codes, (rows, blocks), zeros), (BYTE, qtype.scale_type, BYTE)
        # a symmetric layout has no zero points, and so one name less
        names = onnx_nodes.stored_names(name, qtype)
        arrays = [Array(*array) for array in zip(names, dims, kinds, strict=False)]
        return arrays + [Array(f"{name}.order", (shape[1],), COUNT)] * qtype.ordered
    if qtype.is_float:
        return [Array(name, shape, SINGLE)]
    raise UnsupportedError(
        f"{name} is {qtype.name}, which ONNX cannot hold; "
        "choose INT4_32, INT8_32 or another INT type, or F32."
    )


def weight_values(tensor: Tensor) -> list[Iterable[np.ndarray]]:
    """The pieces along the first axis of each of a tensor's `weight_arrays`."""
    qtype, values = tensor.qtype, list[Iterable[np.ndarray]]()
    count = tensor.rows // len(matrices(tensor.name, tensor.shape))  # rows of one matrix
    for start in range(0, tensor.rows, count):
        if isinstance(qtype, OnnxInt) and tensor.is_matrix:
            parts = qtype.split(tensor.data[start : start + count])
            values += [[part] for part in parts if part is not None]
            if qtype.ordered:
                own = tensor.order
                values.append([np.arange(tensor.cols, dtype=COUNT) if own is None else own])
        else:
            values.append(_float_rows(tensor, start, start + count))
    return values


def _float_rows(tensor: Tensor, start: int, stop: int) -> Iterator[np.ndarray]:
    """float32 values of rows start..stop, some at a time: an embedding may take a gigabyte."""
    for at in range(start, stop, ROWS_AT_ONCE):
        yield tensor.decode(at, min(at + ROWS_AT_ONCE, stop)).astype(SINGLE, copy=False)


def rope_arrays(arch: Arch) -> list[tuple[Array, Iterator[np.ndarray]]]:
    """cos and sin of every position, (positions, channels / 2) each, for every rope.

    With each comes an iterator over its values, some positions at a time.
    """
    stop = genai.context_length(arch)
    return [
        (Array(f"{name}.{side}", (stop, channels // 2), SINGLE), _values(rope, stop, channels, at))
        for (rope, channels), name in onnx_graph.rope_tables(arch).items()
        for at, side in enumerate(("cos", "sin"))
    ]


def _values(rope: Rope, stop: int, channels: int, side: int) -> Iterator[np.ndarray]:
    for start in range(0, stop, ROWS_AT_ONCE):
        yield rope.tables(start, min(start + ROWS_AT_ONCE, stop), channels)[side]


@dataclass
class Places:
    """Where arrays stand in the data file, and how the graph names them there."""

    protos: list[onnx.TensorProto] = field(default_factory=list)
    alignment: int = ALIGNMENT
    location: str = DATA
    """Name of the data file."""
    end: int = 0
    """Bytes of the file so far."""

    def add(self, array: Array) -> int:
        """Give the next array its place; returns the offset."""
        offset = -(-self.end // self.alignment) * self.alignment
        self.end = offset + array.nbytes
        proto = TensorProto(name=array.name, dims=array.dims, data_location=TensorProto.EXTERNAL)
        proto.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        place = {"location": self.location, "offset": offset, "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self.protos.append(proto)
        return offset

    def add_view(self, arch: Arch, qtype: QuantType) -> bool:
        """Name the codes of a tied embedding once more, as the head reads them; False if untied."""
        if not arch.tied or not isinstance(qtype, OnnxInt):
            return False
        proto = TensorProto()
        proto.CopyFrom(next(p for p in self.protos if p.name == f"{onnx_nodes.EMBEDDING}.q"))
        proto.name = onnx_nodes.TIED_BLOCKS
        proto.ClearField("dims")
        proto.dims.extend((arch.vocab, arch.hidden // qtype.size, qtype.code_bytes))
        self.protos.append(proto)
        return True


@dataclass
class DataFile:
    """The data file while it is written, with a hash of each array."""

    file: BinaryIO
    places: Places
    sums: dict[str, str] = field(default_factory=dict)
    """Hashes by name."""

    def add(self, array: Array, pieces: Iterable[np.ndarray]) -> None:
        """Append an array, given in pieces along its first axis."""
        self.file.seek(self.places.add(array))
        hashed = hashlib.sha256()
        for piece in pieces:
            raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
            self.file.write(raw)
            hashed.update(raw)
        self.sums[array.name] = hashed.hexdigest()[:DIGITS]
