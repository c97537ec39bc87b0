"""Q2_K of GGUF: 256 codes of 2 bits; 16 sub-blocks with a scale and a minimum of 4 bits."""

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
from runtime.quant_types.supers import AffineSuper


class Q2_K(AffineSuper):
    """weight = d * scale * code - dmin * min, sub-blocks of 16

    bytes 0..15    scales  low nibble: scale of sub-block j, high nibble: its min
    bytes 16..79   q       bits 2f..2f+1 of byte j: weight 32f + j of 0..127, then of 128..255
    bytes 80..81   d       float16
    bytes 82..83   dmin    float16
    """

    name = "Q2_K"
    bytes = 84
    group = 16
    high = 3
    most = 15
    ggml_type = 10
    narrower = "Q4_0"
    ranges = (
        (0.1, 0.1),
        (0.2, 0),
        (0.05, 0.2),
        (0.15, 0.05),
        (0.05, 0.4),
        (0.4, 0.1),
        (0, 0.1),
        (0.3, 0.15),
    )
    parts = (1.0, 0.95, 0.9)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        scales, mins = (np.asarray(params[key]).astype(np.uint8) for key in ("scales", "mins"))
        q = pack_fields(stored, bits=2, run=32)
        return join_records(
            scales | mins << 4, q, pack_float16(params["d"]), pack_float16(params["dmin"])
        )

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 16:80], bits=2, run=32).astype(np.int32)
        params = {
            "d": unpack_float16(record[..., 80:82]),
            "dmin": unpack_float16(record[..., 82:84]),
            "scales": (record[..., :16] & 15).astype(np.float32),
            "mins": (record[..., :16] >> 4).astype(np.float32),
        }
        return codes.reshape(len(data), -1), params
