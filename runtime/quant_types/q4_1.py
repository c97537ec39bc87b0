"""Q4_1 of GGUF: 32 codes of 4 bits on one scale and one minimum."""

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
from runtime.quant_types.fitting import RANGES_4
from runtime.quant_types.plain import Affine


class Q4_1(Affine):
    """weight = d * code + m

    bytes 0..1    d  float16
    bytes 2..3    m  float16
    bytes 4..19   q  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "Q4_1"
    bytes = 20
    high = 15
    ggml_type = 3
    ranges = RANGES_4

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        d, m = pack_float16(params["d"]), pack_float16(params["m"])
        return join_records(d, m, pack_fields(stored, bits=4, run=16))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 4:], bits=4, run=16).astype(np.int32)
        params = {"d": unpack_float16(record[..., :2]), "m": unpack_float16(record[..., 2:4])}
        return codes.reshape(len(data), -1), params
