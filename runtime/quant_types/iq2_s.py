"""IQ2_S of GGUF, read only: points of eight weights, 16 weights on a scale, all signs."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import Signed, signed


class IQ2_S(Signed):
    """weight = d * (0.5 + scale) / 4 * +-CODEBOOK[index]

    bytes 0..1    d       float16
    bytes 2..33   q       low byte of the index of 8 weights each
    bytes 34..65  signs   bit i: weight i is negative
    bytes 66..73  high    bits 2f..2f+1 of byte j: bits 8..9 of index 4j + f
    bytes 74..81  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
    """

    name = "IQ2_S"
    bytes = 82
    low, high = -43, 43
    group = 16
    ggml_type = 22

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        high = unpack_fields(record[..., 66:74], bits=2, run=1).astype(np.uint16)
        scales = unpack_fields(record[..., 74:], bits=4, run=1).astype(np.float32)
        points = codebook(self.name)[record[..., 2:34] | high << 8]
        d = unpack_float16(record[..., :2])[..., None]
        scale = d * (np.float32(0.5) + scales) * np.float32(0.25)
        return signed(points, record[..., 34:66]), {"scale": scale}
