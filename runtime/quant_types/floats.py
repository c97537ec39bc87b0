"""F32, F16 and BF16: no blocks, no scales; a "code" is the rounded value itself."""

from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from runtime.quant_types.base import Array, Params, QuantType


class _Float(QuantType):
    size = group = 1
    low = high = 0
    is_float = True

    def search(self, w: Array, importance: Array | None = None) -> Params:
        return {"shape": array_namespace(w).zeros_like(w)}

    def grid(self, params: Params) -> tuple[Array, Array]:
        zeros = params["shape"]
        return zeros + 1, zeros

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        return w

    def value(self, codes: Array, scale: Array, offset: Array) -> Array:
        return codes

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        values = self.decode(data)
        return values, {"shape": np.zeros_like(values)}


class F32(_Float):
    """bytes 0..3  float32, little-endian."""

    name = "F32"
    bytes = 4
    ggml_type = 0

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        return np.ascontiguousarray(codes, "<f4").view(np.uint8)

    def decode(self, data: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(data).view("<f4")


class F16(_Float):
    """bytes 0..1  float16, little-endian; values past 65504 are clipped to it."""

    name = "F16"
    bytes = 2
    ggml_type = 1
    limit: ClassVar[float] = 65504.0

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        xp = array_namespace(w)
        return xp.astype(xp.astype(xp.clip(w, -self.limit, self.limit), xp.float16), xp.float32)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        return np.ascontiguousarray(codes, "<f2").view(np.uint8)

    def decode(self, data: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(data).view("<f2").astype(np.float32)


class BF16(_Float):
    """bytes 0..1  the upper half of a float32, rounded to nearest even."""

    name = "BF16"
    bytes = 2
    ggml_type = 30

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        if isinstance(w, np.ndarray):
            return self.decode(self.pack(w, {}))
        return w.bfloat16().float()

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        bits = np.ascontiguousarray(codes, "<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").view(np.uint8)

    def decode(self, data: np.ndarray) -> np.ndarray:
        half = np.ascontiguousarray(data).view("<u2").astype("<u4")
        return (half << 16).view("<f4")
