"""Q3_K of GGUF: 256 codes of 3 bits; 16 sub-blocks with a scale of 6 bits."""

import numpy as np

from runtime.quant_types.base import Array, Params
from runtime.quant_types.bits import (
    join_records,
    pack_fields,
    pack_float16,
    records,
    unpack_fields,
    unpack_float16,
)
from runtime.quant_types.supers import SymmetricSuper


class Q3_K(SymmetricSuper):
    """weight = d * scale * code, code = stored - 4, scale = stored - 32, sub-blocks of 16

    bytes 0..31      qh      bit f of byte j: third bit of weight 32f + j
    bytes 32..95     ql      bits 2f..2f+1 of byte j: weight 32f + j of 0..127, then of 128..255
    bytes 96..103    scales  low nibble: low bits of scale j (0..7), high nibble: of scale j+8
    bytes 104..107           bits 2f..2f+1 of byte j: bits 4..5 of scale 4f + j
    bytes 108..109   d       float16
    """

    name = "Q3_K"
    bytes = 110
    group = 16
    low, high = -4, 3
    span = (-32, 31)
    ggml_type = 11
    narrower = "Q4_0"
    ends = (1.087, 1.463, 0.925, 0.787, -1.25, 1.6, 1.212, 1.012)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size) - self.low
        scales = np.asarray(params["scales"]).astype(np.int32) - self.span[0]
        return join_records(
            pack_fields(stored >> 2, bits=1, run=32),
            pack_fields(stored, bits=2, run=32),
            pack_fields(scales, bits=4, run=8),
            pack_fields(scales >> 4, bits=2, run=4),
            pack_float16(params["d"]),
        )

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        qh = unpack_fields(record[..., :32], bits=1, run=32)
        ql = unpack_fields(record[..., 32:96], bits=2, run=32)
        codes = (ql | qh << 2).astype(np.int32) + self.low
        low = unpack_fields(record[..., 96:104], bits=4, run=8)
        top = unpack_fields(record[..., 104:108], bits=2, run=4)
        scales = (low | top << 4).astype(np.float32) + self.span[0]
        return codes.reshape(len(data), -1), {
            "d": unpack_float16(record[..., 108:]),
            "scales": scales,
        }
