"""Q6_K of GGUF: 256 codes of 6 bits; 16 sub-blocks with a scale of 8 bits."""

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


class Q6_K(SymmetricSuper):
    """weight = d * scale * code, code = stored - 32, sub-blocks of 16

    bytes 0..127     ql      of each 128: low nibble of byte j: weight j, high nibble: weight 64 + j
    bytes 128..191   qh      of each 128: bits 2f..2f+1 of byte j: bits 4..5 of weight 32f + j
    bytes 192..207   scales  int8
    bytes 208..209   d       float16
    """

    name = "Q6_K"
    bytes = 210
    group = 16
    low, high = -32, 31
    span = (-128, 127)
    ggml_type = 14
    narrower = "Q8_0"
    ends = (1.0, 0.938, 0.875, 0.975, 0.812, 0.912, 1.038, 0.85)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size) - self.low
        ql, qh = pack_fields(stored, bits=4, run=64), pack_fields(stored >> 4, bits=2, run=32)
        scales = np.asarray(params["scales"]).astype(np.int8).view(np.uint8)
        return join_records(ql, qh, scales, pack_float16(params["d"]))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        ql = unpack_fields(record[..., :128], bits=4, run=64)
        qh = unpack_fields(record[..., 128:192], bits=2, run=32)
        codes = (ql | qh << 4).astype(np.int32) + self.low
        scales = np.ascontiguousarray(record[..., 192:208]).view(np.int8).astype(np.float32)
        return codes.reshape(len(data), -1), {
            "d": unpack_float16(record[..., 208:]),
            "scales": scales,
        }
