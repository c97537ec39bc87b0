"""IQ3_S of GGUF, read only: points of four weights, 32 weights on a scale, all signs."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import Signed, signed


class IQ3_S(Signed):
    """weight = d * (1 + 2 * scale) * +-CODEBOOK[index]

    bytes 0..1      d       float16
    bytes 2..65     q       low byte of the index of 4 weights each
    bytes 66..73    high    bit i: bit 8 of index i
    bytes 74..105   signs   bit i: weight i is negative
    bytes 106..109  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
    """

    name = "IQ3_S"
    bytes = 110
    low, high = -15, 15
    group = 32
    ggml_type = 21

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        high = unpack_fields(record[..., 66:74], bits=1, run=1).astype(np.uint16)
        scales = unpack_fields(record[..., 106:], bits=4, run=1)
        points = codebook(self.name)[record[..., 2:66] | high << 8]
        d = unpack_float16(record[..., :2])[..., None]
        scale = d * (1 + 2 * scales.astype(np.float32))
        return signed(points, record[..., 74:106]), {"scale": scale}
