"""IQ4_XS of GGUF: 256 codes of 4 bits that name points of a table; 8 sub-blocks with a scale."""

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
from runtime.quant_types.points import Pointed
from runtime.quant_types.supers import SymmetricSuper


class IQ4_XS(Pointed, SymmetricSuper):
    """weight = d * scale * POINTS[code], scale = stored - 32 of 6 bits, sub-blocks of 32

    bytes 0..1     d     float16
    bytes 2..3     high  bits 2f..2f+1 of byte j: bits 4..5 of scale 4j + f
    bytes 4..7     low   low nibble of byte j: low bits of scale 2j, high nibble: of scale 2j + 1
    bytes 8..135   q     of each 32: low nibble of byte j: weight j, high nibble: weight 16 + j
    """

    name = "IQ4_XS"
    bytes = 136
    group = 32
    span = (-32, 31)
    ggml_type = 23
    narrower = "IQ4_NL"

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        scales = np.asarray(params["scales"]).astype(np.int32) - self.span[0]
        return join_records(
            pack_float16(params["d"]),
            pack_fields(scales >> 4, bits=2, run=1),
            pack_fields(scales, bits=4, run=1),
            pack_fields(stored, bits=4, run=16),
        )

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        top = unpack_fields(record[..., 2:4], bits=2, run=1)
        low = unpack_fields(record[..., 4:8], bits=4, run=1)
        codes = unpack_fields(record[..., 8:], bits=4, run=16).astype(np.int32)
        return codes.reshape(len(data), -1), {
            "d": unpack_float16(record[..., :2]),
            "scales": (low | top << 4).astype(np.float32) + self.span[0],
        }
