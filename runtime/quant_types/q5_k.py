"""Q5_K of GGUF: 256 codes of 5 bits; 8 sub-blocks with a scale and a minimum of 6 bits."""

import numpy as np

from runtime.quant_types.base import Array, Params
from runtime.quant_types.bits import join_records, pack_fields, records, unpack_fields
from runtime.quant_types.fitting import RANGES_5
from runtime.quant_types.q4_k import pack_pairs, unpack_pairs
from runtime.quant_types.supers import AffineSuper


class Q5_K(AffineSuper):
    """weight = d * scale * code - dmin * min, sub-blocks of 32

    bytes 0..15     head  d, dmin, scales and mins: see `q4_k.pack_pairs`
    bytes 16..47    qh    bit f of byte j: fifth bit of weight 32f + j
    bytes 48..175   ql    of each 64: low nibble of byte j: weight j, high nibble: weight 32 + j
    """

    name = "Q5_K"
    bytes = 176
    group = 32
    high = 31
    most = 63
    ggml_type = 13
    narrower = "Q5_1"
    ranges = RANGES_5

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        qh, ql = pack_fields(stored >> 4, bits=1, run=32), pack_fields(stored, bits=4, run=32)
        return join_records(pack_pairs(params), qh, ql)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        qh = unpack_fields(record[..., 16:48], bits=1, run=32)
        ql = unpack_fields(record[..., 48:], bits=4, run=32)
        codes = (ql | qh << 4).astype(np.int32)
        return codes.reshape(len(data), -1), unpack_pairs(record[..., :16])
