"""IQ2_XXS of GGUF, read only: points of eight weights, 32 weights on a scale."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import Signed, signed, signs_of_7, words


class IQ2_XXS(Signed):
    """weight = d * (0.5 + scale) / 4 * +-CODEBOOK[index]

    bytes 0..1    d  float16
    bytes 2..65   of each 32: bytes 0..3 index of 8 weights each; then a uint32, bits 7k..7k+6:
                  signs of 8 weights (see signs_of_7), bits 28..31: scale
    """

    name = "IQ2_XXS"
    bytes = 66
    low, high = -43, 43
    group = 32
    ggml_type = 16

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        parts = record[..., 2:].reshape(*record.shape[:2], 8, 8)
        word = words(parts[..., 4:], "<u4")  # (rows, blocks, 8, 1)
        signs = signs_of_7(word >> np.array([0, 7, 14, 21], np.uint32))
        points = codebook(self.name)[parts[..., :4]]
        d = unpack_float16(record[..., :2])[..., None]
        scale = d * (np.float32(0.5) + (word[..., 0] >> 28).astype(np.float32)) * np.float32(0.25)
        return signed(points, signs), {"scale": scale}
