"""Q1_0 of GGUF, read only: weights of -d and d."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.read_only import ReadOnly


class Q1_0(ReadOnly):
    """weight = d where its bit is set, else -d

    bytes 0..1   d  float16
    bytes 2..17  q  bit i of byte j: weight 8j + i
    """

    name = "Q1_0"
    size = group = 128
    bytes = 18
    low, high = -1, 1
    ggml_type = 41

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = 2 * unpack_fields(record[..., 2:], bits=1, run=1).astype(np.int32) - 1
        return codes.reshape(len(data), -1), {"scale": unpack_float16(record[..., :2])[..., None]}
