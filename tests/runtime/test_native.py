"""The C++ kernels against the formats' own readers, against float64, and as an engine."""

import numpy as np
import pytest

pytest.importorskip("runtime._native", reason="the kernels are not compiled; pip install -e .")

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from runtime import _native

GGML = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]


def random_rows(name: str, rows: int, cols: int) -> np.ndarray:
    """Random bytes: every code, and scales that are huge, subnormal, infinite or NaN."""
    size, width = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return np.random.default_rng(5).integers(0, 256, (rows, cols // size * width), dtype=np.uint8)


@pytest.mark.parametrize("name", GGML)
@pytest.mark.parametrize("kernels", _native.instruction_sets())
def test_random_bytes_decode_as_ggml_decodes_them(name: str, kernels: str) -> None:
    data = random_rows(name, 40, 512)
    with np.errstate(all="ignore"):
        expected = dequantize(data, GGMLQuantizationType[name])
    _native.set_instruction_set(kernels)
    decoded = _native.decode(name, data, 512)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(decoded), ~number)
    np.testing.assert_array_equal(decoded.view("u4")[number], expected.view("u4")[number])
