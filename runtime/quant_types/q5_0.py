"""Q5_0 of GGUF: 32 codes of 5 bits on one scale."""

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
from runtime.quant_types.plain import Symmetric


class Q5_0(Symmetric):
    """weight = d * code, code = stored - 16

    bytes 0..1    d   float16
    bytes 2..5    qh  bit i: fifth bit of weight i
    bytes 6..21   ql  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "Q5_0"
    bytes = 22
    low, high = -16, 15
    ggml_type = 6
    ends = (1.012, 0.938, 1.087, 1.25, 0.875, 0.987, 1.425, 0.812)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size) - self.low
        qh, ql = pack_fields(stored >> 4, bits=1, run=1), pack_fields(stored, bits=4, run=16)
        return join_records(pack_float16(params["d"]), qh, ql)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        qh = unpack_fields(record[..., 2:6], bits=1, run=1)
        ql = unpack_fields(record[..., 6:], bits=4, run=16)
        codes = (ql | qh << 4).astype(np.int32) + self.low
        return codes.reshape(len(data), -1), {"d": unpack_float16(record[..., :2])}
