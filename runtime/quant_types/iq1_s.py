"""IQ1_S of GGUF, read only: points of eight weights, 32 weights on a scale and a shift."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import ReadOnly, words


class IQ1_S(ReadOnly):
    """weight = d * (1 + 2 * scale) * (CODEBOOK[index] +- 1/8), codes in eighths

    bytes 0..1    d     float16
    bytes 2..33   q     low byte of the index of 8 weights each
    bytes 34..49  high  uint16 of each 32, bits 3k..3k+2: bits 8..10 of index k, bits 12..14: scale,
                        bit 15: the eighth is subtracted
    """

    name = "IQ1_S"
    size = 256
    bytes = 50
    group = 32
    low, high = -9, 9
    ggml_type = 19

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        word = words(record[..., 34:], "<u2")[..., None]  # (rows, blocks, 8, 1)
        top = (word >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*record.shape[:2], 32)
        points = codebook(self.name)[record[..., 2:34] | top << 8].astype(np.int32)
        shift = np.where(word >> 15, -1, 1).repeat(4, axis=-1).reshape(*record.shape[:2], 32, 1)
        d = unpack_float16(record[..., :2])[..., None] / 8
        scale = d * (2 * (word[..., 0] >> 12 & 7) + 1).astype(np.float32)
        return (points + shift).reshape(len(data), -1), {"scale": scale}
