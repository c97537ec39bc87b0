"""Q4_0 of GGUF: 32 codes of 4 bits on one scale."""

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


class Q4_0(Symmetric):
    """weight = d * code, code = stored - 8

    bytes 0..1    d  float16
    bytes 2..17   q  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "Q4_0"
    bytes = 18
    low, high = -8, 7
    ggml_type = 2
    ends = (1.038, 1.288, 0.9, 1.125, 1.6, 0.987, -1.1, 0.787)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size) - self.low
        return join_records(pack_float16(params["d"]), pack_fields(stored, bits=4, run=16))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        stored = unpack_fields(record[..., 2:], bits=4, run=16).astype(np.int32)
        return (stored + self.low).reshape(len(data), -1), {"d": unpack_float16(record[..., :2])}
