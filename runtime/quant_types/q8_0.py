"""Q8_0 of GGUF: 32 signed bytes on one scale."""

import numpy as np

from runtime.quant_types.base import Array, Params
from runtime.quant_types.bits import join_records, pack_float16, records, unpack_float16
from runtime.quant_types.plain import Symmetric


class Q8_0(Symmetric):
    """weight = d * code

    bytes 0..1    d      float16
    bytes 2..33   codes  int8; no rounding writes -128, which other tools' codes have
    """

    name = "Q8_0"
    bytes = 34
    low, high = -127, 127
    lowest_held = -128
    ggml_type = 8
    ends = (1.0, 0.975, 0.963, 0.938, 0.988, 0.95, 0.912, 0.9)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        small = np.asarray(codes).astype(np.int8).view(np.uint8)
        return join_records(pack_float16(params["d"]), small.reshape(len(codes), -1, self.size))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = np.ascontiguousarray(record[..., 2:]).view(np.int8).astype(np.int32)
        return codes.reshape(len(data), -1), {"d": unpack_float16(record[..., :2])}
