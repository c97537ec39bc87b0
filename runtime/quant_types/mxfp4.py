"""MXFP4 of GGUF, read only: 32 floats of 4 bits on a power of two."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records
from runtime.quant_types.fp4 import Fp4, points


class MXFP4(Fp4):
    """weight = 2^(e - 128) * POINTS[q]

    byte 0        e
    bytes 1..16   q  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "MXFP4"
    size = group = 32
    bytes = 17
    ggml_type = 39

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        scale = np.ldexp(np.float32(1), record[..., :1].astype(np.int32) - 128)
        return points(record[..., 1:], run=16).reshape(len(data), -1), {"scale": scale}
