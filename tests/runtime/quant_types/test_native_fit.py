"""The scale searches in C++ against their definitions: equal to the last bit."""

from typing import Any

import numpy as np
import pytest
import torch

from runtime import compiled
from runtime.errors import EdgequantError
from runtime.quant_types import QUANT_TYPES, Params, QuantType, to_numpy
from runtime.quant_types.q4_k import Q4_K
from tests.runtime.quant_types.test_blocks import COLS, edges, importance, weights

_native: Any = pytest.importorskip(
    "runtime._native", reason="the kernels are not compiled; run `pip install -e .`"
)

pytestmark = pytest.mark.usefixtures("native_settings")
OWN = [qtype for qtype in QUANT_TYPES.values() if not qtype.ordered]  # the bytes of others
LAYOUTS = [qtype for qtype in OWN if qtype.native is not None]
layouts = pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)


def assert_same_bits(ours: Params, theirs: Params) -> None:
    """Equal params, the signs of zeros included."""
    assert ours.keys() == theirs.keys()
    for key, stored in theirs.items():
        assert ours[key].dtype == np.float32
        assert ours[key].shape == stored.shape
        same = np.ascontiguousarray(ours[key]).view("u4")
        np.testing.assert_array_equal(same, np.ascontiguousarray(stored).view("u4"), err_msg=key)


def sparse(rows: int = 40) -> np.ndarray:
    """Rows with zeros of both signs, equal weights, and sizes far apart in one block."""
    random = np.random.default_rng(11)
    w = random.normal(size=(rows, COLS)) * 10.0 ** random.integers(-6, 3, (rows, COLS))
    w[random.random(w.shape) < 0.3] = 0.0
    w[::3] = np.round(w[::3] * 4) / 4
    return (w * random.choice([-1.0, 1.0], w.shape)).astype(np.float32)


WEIGHTS = {"random": weights, "edges": edges, "sparse": sparse}
IMPORTANCE = {
    "none": lambda: None,
    "random": importance,
    "zero": lambda: np.zeros(COLS, np.float32),
    "sparse": lambda: np.where(np.arange(COLS) % 7, 0, importance() * 1e20).astype(np.float32),
}


def test_every_fitted_layout_has_a_native_search() -> None:
    assert [qtype for qtype in OWN if not qtype.is_float] == LAYOUTS
    for qtype in (qtype for qtype in QUANT_TYPES.values() if qtype.ordered):
        assert qtype.native is QUANT_TYPES[qtype.name.removesuffix("_ACT")].native


@layouts
@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
def test_params_equal_the_definition(qtype: QuantType, make: Any) -> None:
    w = make()
    for weight in (given() for given in IMPORTANCE.values()):
        expected = qtype.search(w, weight)
        for instructions in _native.instruction_sets():
            _native.set_instruction_set(instructions)
            assert_same_bits(qtype.fit(w, weight), expected)


@layouts
def test_any_number_of_rows_and_threads_fits_alike(qtype: QuantType) -> None:
    w = np.tile(weights(13), (20, 1))
    expected = qtype.search(w, importance())
    for threads in (1, 2, 3):
        _native.set_threads(threads)
        for rows in (0, 1, 15, 16, 17, len(w)):
            first = {key: stored[:rows] for key, stored in expected.items()}
            assert_same_bits(qtype.fit(w[:rows], importance()), first)


def test_columns_of_a_wider_matrix_and_other_types_are_fitted_as_they_lie() -> None:
    qtype, wide = QUANT_TYPES["Q4_0"], weights()
    part = wide[:, 64:192]
    assert_same_bits(qtype.fit(part), qtype.search(part.copy()))
    assert_same_bits(qtype.fit(part.astype(np.float64)), qtype.search(part.copy()))
    turned = np.asfortranarray(part)
    assert_same_bits(qtype.fit(turned), qtype.search(part.copy()))


@layouts
def test_tensors_on_the_cpu_take_the_native_search(
    qtype: QuantType, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, weight = weights(), importance()
    expected = qtype.search(w, weight)
    monkeypatch.setattr(type(qtype), "search", None)
    params = qtype.fit(torch.from_numpy(w), torch.from_numpy(weight))
    assert all(isinstance(stored, torch.Tensor) for stored in params.values())
    assert_same_bits(to_numpy(params), expected)


def test_without_the_compiled_module_the_definition_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "kernels", None)
    qtype = object.__new__(Q4_K)
    assert qtype.native is None
    assert_same_bits(
        qtype.fit(weights(), importance()), QUANT_TYPES["Q4_K"].fit(weights(), importance())
    )


def test_a_layout_without_a_native_search_is_fitted_by_its_definition() -> None:
    qtype = object.__new__(Q4_K)
    qtype.__dict__["native"] = None
    assert_same_bits(qtype.fit(weights()), QUANT_TYPES["Q4_K"].search(weights()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cubic", 32, 32, (0, 15), [1.0]), "no native scale search called cubic"),
        (("symmetric", 32, 8, (0, 15), [1.0]), "takes groups of 16, 32, 64 or 128"),
        (("symmetric", 512, 32, (0, 15), [1.0]), "in blocks of at most 256 weights"),
        (("symmetric", 32, 32, (0, 15), []), "32 candidates"),
        (("symmetric", 32, 32, (0, 15), [1.0] * 33), "leave such a layout to its definition"),
    ],
)
def test_a_search_that_the_kernels_do_not_know_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(EdgequantError, match=message):
        _native.Rounder("made up", *arguments)


def test_columns_that_fill_no_blocks_are_refused() -> None:
    w, weight = weights()[:, :48].copy(), np.ones(48, np.float32)
    with pytest.raises(EdgequantError, match="48 columns with 48 importances do not fill blocks"):
        QUANT_TYPES["Q4_0"].native.rounder.fit(w, weight)
    with pytest.raises(EdgequantError, match="64 columns with 48 importances"):
        QUANT_TYPES["Q4_0"].native.rounder.fit(weights()[:, :64].copy(), weight)
