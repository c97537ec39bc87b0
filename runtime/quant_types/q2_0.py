"""Q2_0 of GGUF, read only: weights of -d, 0, d and 2d."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.read_only import ReadOnly


class Q2_0(ReadOnly):
    """weight = d * (q - 1)

    bytes 0..1   d  float16
    bytes 2..17  q  bits 2f..2f+1 of byte j: weight 4j + f
    """

    name = "Q2_0"
    size = group = 64
    bytes = 18
    low, high = -1, 2
    ggml_type = 42

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 2:], bits=2, run=1).astype(np.int32) - 1
        return codes.reshape(len(data), -1), {"scale": unpack_float16(record[..., :2])[..., None]}
