"""IQ3_XXS of GGUF, read only: points of four weights, 32 weights on a scale."""

import numpy as np

from runtime.quant_types.base import Params
from runtime.quant_types.bits import records, unpack_float16
from runtime.quant_types.codebooks import codebook
from runtime.quant_types.read_only import Signed, signed, signs_of_7, words


class IQ3_XXS(Signed):
    """weight = d * (0.5 + scale) / 2 * +-CODEBOOK[index]

    bytes 0..1    d  float16
    bytes 2..65   q  index of 4 weights each
    bytes 66..97  a uint32 of each 32, bits 7k..7k+6: signs of 8 weights (signs_of_7), bits 28..31:
                  scale
    """

    name = "IQ3_XXS"
    bytes = 98
    low, high = -62, 62
    group = 32
    ggml_type = 18

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        word = words(record[..., 66:], "<u4")
        signs = signs_of_7(word[..., None] >> np.array([0, 7, 14, 21], np.uint32))
        points = codebook(self.name)[record[..., 2:66]]
        d = unpack_float16(record[..., :2])[..., None]
        scale = d * (np.float32(0.5) + (word >> 28).astype(np.float32)) * np.float32(0.5)
        return signed(points, signs), {"scale": scale}
