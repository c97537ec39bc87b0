"""A named tensor as it lies in a file: packed bytes and the layout that reads them."""

from dataclasses import dataclass

import numpy as np

from runtime.blocks import BLOCKS, Block


@dataclass(frozen=True)
class Tensor:
    """Packed rows of one weight. 1-D tensors (norms, biases) are one row."""

    name: str
    """Runtime name, such as "blk.3.attn_q.weight" (GGUF's spelling, for every container)."""
    shape: tuple[int, ...]
    """(rows, cols), or (n,)."""
    block: Block
    data: np.ndarray
    """uint8 (rows, row_bytes); often a read-only memory map."""

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return int(self.data.size)

    def decode(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 weights of rows start..stop (a 1-D tensor: all of it)."""
        if len(self.shape) == 1:
            return self.block.decode(self.data).reshape(self.shape)
        return self.block.decode(self.data[start:stop])

    @staticmethod
    def dense(name: str, values: np.ndarray, kind: str = "F32") -> "Tensor":
        """A float tensor (F32, F16 or BF16) made from values of any shape up to 2-D."""
        layout = BLOCKS[kind]
        rows = values.reshape(1, -1) if values.ndim == 1 else values
        return Tensor(name, tuple(values.shape), layout, layout.pack(rows, {}))
