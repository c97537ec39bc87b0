"""A named tensor as it lies in a file: packed bytes and the layout that reads them."""

import math
from dataclasses import dataclass

import numpy as np

from runtime.quant_types import QUANT_TYPES, SCALED, QuantType

Shape = tuple[int, ...]


def is_matrix(shape: Shape) -> bool:
    """Whether a tensor is a weight that is quantized: a matrix, or one for every expert.

    Norms and biases, of one axis, never are.
    """
    return len(shape) > 1


def rows_and_cols(shape: Shape) -> tuple[int, int]:
    """How a tensor lies in memory: rows of its last axis; a vector is one row."""
    return math.prod(shape[:-1]), shape[-1]


def stored_bytes(qtype: QuantType, shape: Shape) -> int:
    """Bytes of a tensor in a type that fits its rows."""
    return math.prod(shape[:-1]) * qtype.row_bytes(shape[-1])


def file_bytes(qtype: QuantType, shape: Shape) -> int:
    """Bytes of a tensor in a file, where the zero points of a row may share bytes (onnx_int.py),
    and an order of the columns stands beside the rows."""
    order = 4 * shape[-1] if qtype.ordered else 0
    return math.prod(shape[:-1]) * math.ceil(shape[-1] * qtype.bits / 8) + order


@dataclass(frozen=True)
class Tensor:
    """Packed rows of one weight. 1-D tensors (norms, biases) are one row."""

    name: str
    """Runtime name, such as "blk.3.attn_q.weight" (GGUF's spelling, for every container)."""
    shape: Shape
    """(rows, cols), (experts, rows, cols) or (n,)."""
    qtype: QuantType
    data: np.ndarray
    """uint8 (rows of all experts, row_bytes); often a read-only memory map."""
    scales: np.ndarray | None = None
    """What NVFP4 is multiplied by: float32 (1,) or (experts,); None = nothing."""
    order: np.ndarray | None = None
    """Of a matrix whose type is `ordered`: the column that each packed one is, int32 (cols,); None
    = as they come."""

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return int(self.data.size)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight that is quantized."""
        return is_matrix(self.shape)

    @property
    def rows(self) -> int:
        """Rows of all experts."""
        return rows_and_cols(self.shape)[0]

    @property
    def cols(self) -> int:
        """Numbers in a row."""
        return self.shape[-1]

    def matrix(self, expert: int) -> "Tensor":
        """The matrix of one expert of (experts, rows, cols)."""
        _, rows, cols = self.shape
        data = self.data[expert * rows : (expert + 1) * rows]
        return Tensor(self.name, (rows, cols), self.qtype, data)

    def decode(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 weights of rows start..stop, (rows, cols); a 1-D tensor: all of it, (n,)."""
        if not self.is_matrix:
            return self.qtype.decode(self.data).reshape(self.shape)
        return self.unpacked(slice(start, stop))

    def unpacked(self, rows: slice | np.ndarray) -> np.ndarray:
        """float32 weights of some rows of a matrix, (rows, cols)."""
        packed = self.scaled()
        values = packed.qtype.decode(packed.data[rows])
        return values if self.order is None else values[:, np.argsort(self.order)]

    def as_packed(self) -> "Tensor":
        """Itself with its columns as they are packed, whatever `order` says."""
        if self.order is None:
            return self
        return Tensor(self.name, self.shape, self.qtype.unordered, self.data)

    def scaled(self) -> "Tensor":
        """Itself, with its scales inside the blocks: a copy where it has any."""
        if self.scales is None:
            return self
        return Tensor(self.name, self.shape, SCALED, SCALED.join(self.data, self.scales))

    @staticmethod
    def dense(name: str, values: np.ndarray, type_name: str = "F32") -> "Tensor":
        """A float tensor (F32, F16 or BF16) made from values of any shape."""
        qtype = QUANT_TYPES[type_name]
        rows = values.reshape(rows_and_cols(values.shape))
        return Tensor(name, tuple(values.shape), qtype, qtype.pack(rows, {}))
