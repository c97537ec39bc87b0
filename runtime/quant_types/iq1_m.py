"""IQ1_M of GGUF, read only: points of eight weights, each with a shift, 16 weights on a scale."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import ReadOnly, words


class IQ1_M(ReadOnly):
    """weight = d * (1 + 2 * scale) * (CODEBOOK[index] +- 1/8), codes in eighths

    bytes 0..31   q       low byte of the index of 8 weights each
    bytes 32..47  high    nibbles, the low one first: bits 0..2 are bits 8..10 of the index of 8
                          weights, bit 3: their eighth is subtracted
    bytes 48..55  scales  uint16 of each 64, bits 3k..3k+2: scale k; bits 12..15 of the four words,
                          lowest first, are the float16 d
    """

    name = "IQ1_M"
    size = 256
    bytes = 56
    group = 16
    low, high = -9, 9
    ggml_type = 29

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        top = unpack_fields(record[..., 32:48], bits=4, run=1).astype(np.uint16)
        points = codebook(self.name)[record[..., :32] | (top & 7) << 8].astype(np.int32)
        codes = points + np.where(top & 8, -1, 1)[..., None]
        word = words(record[..., 48:], "<u2")
        half = np.bitwise_or.reduce(word >> 12 << np.array([0, 4, 8, 12], np.uint16), axis=-1)
        d = half.view("<f2").astype(np.float32)[..., None] / 8
        scales = word[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
        scale = d * (2 * scales.reshape(*record.shape[:2], 16) + 1).astype(np.float32)
        return codes.reshape(len(data), -1), {"scale": scale}
