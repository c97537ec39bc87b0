"""TQ2_0 of GGUF, read only: weights of -d, 0 and d, four to a byte."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_fields, unpack_float16
from runtime.quant_types.read_only import ReadOnly


class TQ2_0(ReadOnly):
    """weight = d * (q - 1)

    bytes 0..63   q  of each 128: bits 2f..2f+1 of byte j: weight 32f + j
    bytes 64..65  d  float16
    """

    name = "TQ2_0"
    size = group = 256
    bytes = 66
    low, high = -1, 2
    ggml_type = 35

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., :64], bits=2, run=32).astype(np.int32) - 1
        return codes.reshape(len(data), -1), {"scale": unpack_float16(record[..., 64:])[..., None]}
