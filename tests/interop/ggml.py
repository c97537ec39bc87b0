"""ggml's own rounding and decoding, called in the library that xllamacpp carries."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.quant_types import QuantType


@cache
def library() -> Any:
    """llama.cpp with ggml, as the wheel of xllamacpp has it."""
    import xllamacpp

    (found,) = Path(str(xllamacpp.__file__)).parent.glob("xllamacpp*.so")
    return ctypes.CDLL(str(found))


def quantized(weights: np.ndarray, qtype: QuantType) -> np.ndarray:
    """Rows float32 (rows, cols) as ggml packs them, all inputs alike: uint8 (rows, row_bytes)."""
    chunk = library().ggml_quantize_chunk
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    chunk.restype = ctypes.c_size_t
    rows, even = np.ascontiguousarray(weights), np.ones(weights.shape[1], np.float32)
    out = np.zeros((len(rows), qtype.row_bytes(rows.shape[1])), np.uint8)
    sizes = (0, *rows.shape)
    written = chunk(qtype.ggml_type, rows.ctypes.data, out.ctypes.data, *sizes, even.ctypes.data)
    assert written == out.nbytes
    return out


def decoded(data: np.ndarray, qtype: QuantType) -> np.ndarray:
    """Rows uint8 (rows, row_bytes) as ggml decodes them: float32 (rows, cols)."""
    name = qtype.name.lower().replace("_k", "_K")
    decode = getattr(library(), f"dequantize_row_{name}")
    decode.argtypes, decode.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    out = np.zeros((len(data), data.shape[1] // qtype.bytes * qtype.size), np.float32)
    decode(data.ctypes.data, out.ctypes.data, out.size)
    return out
