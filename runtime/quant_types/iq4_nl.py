"""IQ4_NL of GGUF: 32 codes of 4 bits that name points of a table, on one scale."""

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
from runtime.quant_types.points import Pointed


class IQ4_NL(Pointed, Symmetric):
    """weight = d * POINTS[code]

    bytes 0..1    d  float16
    bytes 2..17   q  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "IQ4_NL"
    bytes = 18
    ggml_type = 20

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        return join_records(pack_float16(params["d"]), pack_fields(stored, bits=4, run=16))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 2:], bits=4, run=16).astype(np.int32)
        return codes.reshape(len(data), -1), {"d": unpack_float16(record[..., :2])}
