"""Our fits against ggml's own quantizer, with and without an importance matrix."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.read_only import READ_ONLY
from tests.interop import ggml as ggml_library

xllamacpp = pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

LAYOUTS = [b for b in QUANT_TYPES.values() if b.ggml_type is not None and not b.is_float]
READ = [*LAYOUTS, *(b for b in READ_ONLY.values() if b.ggml_type is not None)]
Floats = ctypes.POINTER(ctypes.c_float)


@pytest.fixture(scope="module")
def ggml() -> Callable[[QuantType, np.ndarray, np.ndarray | None], np.ndarray]:
    """(layout, w, importance) -> the bytes that ggml_quantize_chunk makes."""
    (library,) = Path(str(xllamacpp.__file__)).parent.glob("xllamacpp*.so")
    chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
    sizes = [ctypes.c_int64] * 3  # first row, rows, columns
    chunk.argtypes = [ctypes.c_int, Floats, ctypes.c_void_p, *sizes, Floats]
    chunk.restype = ctypes.c_size_t

    def quantize(qtype: QuantType, w: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        out = np.zeros((len(w), qtype.row_bytes(w.shape[1])), np.uint8)
        weight = None if importance is None else importance.ctypes.data_as(Floats)
        source = w.ctypes.data_as(Floats)
        written = chunk(qtype.ggml_type, source, out.ctypes.data, 0, *w.shape, weight)
        assert written == out.nbytes
        return out

    return quantize


def weights(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    draw = rng.normal(size=(96, 1024)) if kind == "gaussian" else rng.standard_t(4, (96, 1024))
    return (draw * 0.02).astype(np.float32)


def importances(kind: str) -> np.ndarray | None:
    """Mean squared inputs: even, and spread over one, two or four orders of magnitude."""
    draw = np.random.default_rng(8).normal(size=1024)
    spread = {"none": None, "even": 0.0, "mild": 0.5, "plain": 1.0, "wild": 2.0}[kind]
    return None if spread is None else np.exp(spread * draw).astype(np.float32)


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)
@pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed"])
@pytest.mark.parametrize("spread", ["none", "even", "mild", "plain", "wild"])
def test_weighted_error_is_less_than_ggmls(ggml, qtype, kind, spread):
    w, importance = weights(kind), importances(spread)
    weight = 1.0 if importance is None else importance
    ours = qtype.pack(*qtype.quantize(w, importance))
    theirs = ggml(qtype, w, importance)
    errors = [
        float((weight * (qtype.decode(data) - w).astype(np.float64) ** 2).sum())
        for data in (ours, theirs)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)
def test_bytes_made_by_ggml_survive_unpacking_and_packing(ggml, qtype):
    data = ggml(qtype, weights("heavy-tailed"), importances("plain"))
    np.testing.assert_array_equal(qtype.pack(*qtype.unpack(data)), data)


@pytest.mark.parametrize("qtype", READ, ids=lambda qtype: qtype.name)
def test_random_bytes_decode_as_ggml_decodes_them(qtype: QuantType) -> None:
    shape = (300, qtype.row_bytes(1024))
    data = np.random.default_rng(9).integers(0, 256, shape, dtype=np.uint8)
    expected = ggml_library.decoded(data, qtype)
    with np.errstate(all="ignore"):
        found = qtype.decode(data)
    number = ~np.isnan(expected)
    assert (np.isnan(found) == ~number).all()
    assert (found.view("u4")[number] == expected.view("u4")[number]).all()
