"""NVFP4 of GGUF, read only: 16 floats of 4 bits on a float of 8 bits, and a scale of the tensor."""

from typing import ClassVar

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import join_records, records
from runtime.quant_types.fp4 import Fp4, points
from runtime.quant_types.read_only import words

LARGEST = 127
"""A scale of all bits is no number in the standard; ggml reads it as 0."""


def _values() -> np.ndarray:
    """Half the value of every byte as an unsigned E4M3, float32 (256,); bit 7 does not count."""
    byte = np.arange(256) & 127
    exponent, mantissa = byte >> 3, byte & 7
    whole = np.where(exponent > 0, 8 + mantissa, mantissa)
    value = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - 11)
    return np.where(np.arange(256) == LARGEST, np.float32(0), value)


VALUES = _values()


class NVFP4(Fp4):
    """weight = s / 2 * POINTS[q], 16 weights on a scale

    bytes 0..3    s  E4M3 without a sign (bit 7)
    bytes 4..35   q  of each 16: low nibble of byte j: weight j, high nibble: weight 8 + j
    """

    name = "NVFP4"
    size = 64
    group = 16
    bytes = 36
    ggml_type: ClassVar[int | None] = 40

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, NVFP4.bytes)
        codes = points(record[..., 4:], run=8)
        return codes.reshape(len(data), -1), {"scale": VALUES[record[..., :4]]}


class NVFP4_SCALED(NVFP4):
    """NVFP4 times the scale of its tensor, which a file holds as a tensor of its own

    bytes 0..3    t  float32, the same in the whole tensor or expert
    bytes 4..39   as NVFP4
    """

    name = "NVFP4_SCALED"
    bytes = 40
    ggml_type = None

    def join(self, data: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Rows of NVFP4 (rows, row_bytes) and scales (n,), of rows / n rows each -> this type."""
        record = records(data, NVFP4.bytes)
        of_rows = np.repeat(scales.astype("<f4"), len(data) // len(scales))
        stored = np.broadcast_to(of_rows[:, None, None], (*record.shape[:2], 1))
        return join_records(words(stored, "u1"), record)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes, params = super().unpack(record[..., 4:].reshape(len(data), -1))
        return codes, {"scale": params["scale"] * words(record[..., :4], "<f4")}


SCALED = NVFP4_SCALED()
