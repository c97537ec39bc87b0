"""IQ2_XS of GGUF, read only: points of eight weights, 16 weights on a scale."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import Signed, signed, signs_of_7, words


class IQ2_XS(Signed):
    """weight = d * (0.5 + scale) / 4 * +-CODEBOOK[index]

    bytes 0..1    d       float16
    bytes 2..65   q       uint16 of 8 weights each: bits 0..8 index, bits 9..15 signs (signs_of_7)
    bytes 66..73  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
    """

    name = "IQ2_XS"
    bytes = 74
    low, high = -43, 43
    group = 16
    ggml_type = 17

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        word = words(record[..., 2:66], "<u2")
        scales = unpack_fields(record[..., 66:], bits=4, run=1).astype(np.float32)
        d = unpack_float16(record[..., :2])[..., None]
        scale = d * (np.float32(0.5) + scales) * np.float32(0.25)
        return signed(codebook(self.name)[word & 511], signs_of_7(word >> 9)), {"scale": scale}
