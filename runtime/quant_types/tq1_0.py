"""TQ1_0 of GGUF, read only: weights of -d, 0 and d, five to a byte."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_float16
from runtime.quant_types.read_only import ReadOnly

POWERS = np.array([1, 3, 9, 27, 81], np.uint8)
"""What a byte is multiplied by, of which 8 bits are kept, before its first digit is read."""


class TQ1_0(ReadOnly):
    """weight = d * (digit - 1)

    A byte is a fraction in base 3 of n / 256: digit k is the whole part of 3 times what is left of
    byte * 3^k.

    bytes 0..31   q  digit k of byte j: weight 32k + j
    bytes 32..47  q  digit k of byte j: weight 160 + 16k + j
    bytes 48..51  q  digit k of byte j: weight 240 + 4k + j, four digits
    bytes 52..53  d  float16
    """

    name = "TQ1_0"
    size = group = 256
    bytes = 54
    low, high = -1, 1
    ggml_type = 34

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        runs = [(record[..., :32], 5), (record[..., 32:48], 5), (record[..., 48:52], 4)]
        digits = [
            (run[..., None, :] * POWERS[:count, None]).reshape(*record.shape[:2], -1)
            for run, count in runs
        ]
        left = np.concatenate(digits, axis=-1).astype(np.int32)
        d = unpack_float16(record[..., 52:])[..., None]
        return (left * 3 // 256 - 1).reshape(len(data), -1), {"scale": d}
