"""Q5_1 of GGUF: 32 codes of 5 bits on one scale and one minimum."""

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
from runtime.quant_types.fitting import RANGES_5
from runtime.quant_types.plain import Affine


class Q5_1(Affine):
    """weight = d * code + m

    bytes 0..1    d   float16
    bytes 2..3    m   float16
    bytes 4..7    qh  bit i: fifth bit of weight i
    bytes 8..23   ql  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "Q5_1"
    bytes = 24
    high = 31
    ggml_type = 7
    ranges = RANGES_5

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        d, m = pack_float16(params["d"]), pack_float16(params["m"])
        qh, ql = pack_fields(stored >> 4, bits=1, run=1), pack_fields(stored, bits=4, run=16)
        return join_records(d, m, qh, ql)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        qh = unpack_fields(record[..., 4:8], bits=1, run=1)
        ql = unpack_fields(record[..., 8:], bits=4, run=16)
        params = {"d": unpack_float16(record[..., :2]), "m": unpack_float16(record[..., 2:4])}
        return (ql | qh << 4).astype(np.int32).reshape(len(data), -1), params
