"""The fast products of the kernels: int8 activations for a few tokens, bfloat16 for many."""

from typing import Any

import numpy as np
import pytest

from quantize.checkpoint import Checkpoint
from runtime.engine import open_engine
from runtime.quant_types import QUANT_TYPES, quant_type
from runtime.quant_types.read_only import READ_ONLY
from tests.small_models import rounded_model

_native: Any = pytest.importorskip(
    "runtime._native", reason="the kernels are not compiled; run `pip install -e .`"
)

FLOATS = ("F32", "F16", "BF16", "NVFP4", "NVFP4_SCALED")
"""Layouts whose products keep float activations."""
LAYOUTS = QUANT_TYPES | READ_ONLY
PACKED = tuple(name for name in _native.types() if name not in FLOATS)
# Sums of codes and of offsets cancel: they are larger than the product of the weights.
CLOSE = 64 * float(np.finfo(np.float32).eps)
FEW, MANY = (1, 2, 3, 5), (6, 17, 40)
"""Tokens that every instruction set multiplies as int8, and that AMX multiplies as bfloat16."""


@pytest.fixture(autouse=True)
def rounded_activations(native_settings: Any) -> None:
    """As `run` and `generate` multiply: activations as int8 or bfloat16."""
    native_settings.set_exact(False)


def row_bytes(name: str, cols: int) -> int:
    return LAYOUTS[name].row_bytes(cols)


def packed_rows(name: str, rows: int, cols: int) -> np.ndarray:
    """Random bytes, without the bits that would make a scale larger than 2 or a float32 tiny."""
    shape = (rows, row_bytes(name, cols))
    data = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8) & np.uint8(0x3B)
    if name in QUANT_TYPES and name.startswith("INT"):
        data[:, 3 :: quant_type(name).row_bytes(quant_type(name).size)] = (
            0x3B  # the float32's exponent
        )
    return data


def activations(count: int, cols: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, cols)).astype(np.float32)


def as_int8(x: np.ndarray) -> np.ndarray:
    """float32 (n, cols) -> float64: rounded to 255 steps of each 32 columns, as the kernels do."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.where(largest >= 1e-30, np.float32(127) / largest, np.float32(0))
    codes = np.rint(blocks * inverse).astype(np.float64)
    return (codes * (largest / np.float32(127))).reshape(x.shape)


def as_bfloat(values: np.ndarray) -> np.ndarray:
    """float32 -> float64: rounded to 8 bits, to the nearest even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def assert_within(actual: np.ndarray, x: np.ndarray, weight: np.ndarray, share: float) -> None:
    """actual equals x @ weight.T but for `share` of the products' magnitudes."""
    bound = np.abs(x) @ np.abs(weight).T
    assert (np.abs(actual - x @ weight.T) <= share * bound).all()
    assert bound.max() > 0


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", PACKED)
def test_a_few_tokens_are_multiplied_as_int8(name: str, instructions: str) -> None:
    _native.set_instruction_set(instructions)
    size = max(LAYOUTS[name].size, 128)
    for rows, cols in [(1, size), (3, 3 * size), (18, 7 * size)]:  # around the tile of 4 rows
        data = packed_rows(name, rows, cols)
        weight = _native.decode(name, data, cols).astype(np.float64)
        for count in FEW:
            x = activations(count, cols)
            actual = _native.matmul(name, data, cols, x)
            assert actual.shape == (count, rows)
            assert_within(actual, as_int8(x), weight, CLOSE)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", PACKED)
def test_many_tokens_are_multiplied_as_int8_or_bfloat16(name: str, instructions: str) -> None:
    _native.set_instruction_set(instructions)
    # around 16 and 32 rows, 512 and 1,024 columns, 256 rows
    for rows, cols in [(1, 256), (33, 768), (17, 1280), (290, 256)]:
        data = packed_rows(name, rows, cols)
        weight = _native.decode(name, data, cols)
        for count in MANY:
            x = activations(count, cols)
            actual = _native.matmul(name, data, cols, x)
            assert actual.shape == (count, rows)
            if instructions == "amx":  # a weight may round to its other neighbour: 2^-8 of it
                assert_within(actual, as_bfloat(x), weight.astype(np.float64), 2.0**-8)
                rounded = as_bfloat(weight)
                error = actual - as_bfloat(x) @ rounded.T
                scale = np.sqrt(as_bfloat(x) ** 2 @ rounded.T**2)
                assert np.abs(error).max() <= 4e-3 * scale.max()
            else:
                assert_within(actual, as_int8(x), weight.astype(np.float64), CLOSE)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", [name for name in PACKED if name in QUANT_TYPES])
def test_sums_have_room_for_the_largest_codes(name: str, instructions: str) -> None:
    _native.set_instruction_set(instructions)
    qtype = quant_type(name)
    for code in (qtype.low, qtype.high):
        params = qtype.fit(activations(17, 1280))
        data = qtype.pack(np.full((17, 1280), code, np.int32), params)
        weight = _native.decode(name, data, 1280)
        x = np.ones((19, 1280), np.float32)  # codes 127 and -127
        x[::2] = -1
        actual = _native.matmul(name, data, 1280, x)
        share = 2.0**-7 if instructions == "amx" else CLOSE
        assert_within(actual, x.astype(np.float64), weight.astype(np.float64), share)


@pytest.mark.parametrize("cols", [1, 31, 33, 545])
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_float_rows_of_any_length_meet_many_tokens(name: str, cols: int) -> None:
    weight = activations(50, cols)
    tensor = quant_type(name).pack(*quant_type(name).quantize(weight))
    x = activations(37, cols)
    actual = _native.matmul(name, tensor, cols, x)
    np.testing.assert_allclose(actual, x @ weight.T, atol=0.02 * np.sqrt(cols), rtol=0.02)


def test_float32_weights_are_never_rounded() -> None:
    weight, x = activations(50, 96), activations(37, 96)[::-1].copy()
    actual = _native.matmul("F32", weight.view(np.uint8), 96, x)
    assert_within(actual, x.astype(np.float64), weight.astype(np.float64), CLOSE)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", ["Q6_K", "Q4_0", "INT8_32"])
def test_a_token_does_not_depend_on_its_neighbours(name: str, instructions: str) -> None:
    _native.set_instruction_set(instructions)
    data, x = packed_rows(name, 45, 1280), activations(600, 1280)
    for counts in (FEW, MANY):
        results = [_native.matmul(name, data, 1280, x[:count]) for count in counts]
        for result, count in zip(results, counts, strict=True):
            np.testing.assert_array_equal(result, results[-1][:count])
        shifted = _native.matmul(name, data, 1280, x[1 : counts[-1]])
        np.testing.assert_array_equal(shifted, results[-1][1:])


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "IQ4_NL", "Q3_K"])
def test_every_instruction_set_gives_nearly_the_same_sums(name: str) -> None:
    data, x = packed_rows(name, 21, 2048), activations(3, 2048)
    bound = np.abs(as_int8(x)) @ np.abs(_native.decode(name, data, 2048).astype(np.float64)).T
    results = []
    for instructions in _native.instruction_sets():
        _native.set_instruction_set(instructions)
        results.append(_native.matmul(name, data, 2048, x))
    for result in results[1:]:  # with and without a rounding between product and sum
        assert (np.abs(result - results[0]) <= CLOSE * bound).all()


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("count", [1, 12])
def test_extreme_activations_stay_what_they_are(count: int, instructions: str) -> None:
    _native.set_instruction_set(instructions)
    data = packed_rows("Q4_0", 5, 64)
    weight = _native.decode("Q4_0", data, 64)
    x = np.zeros((count, 64), np.float32)
    assert (_native.matmul("Q4_0", data, 64, x) == 0).all()
    x[:, 3] = 1e30
    huge = _native.matmul("Q4_0", data, 64, x)
    np.testing.assert_allclose(huge, x @ weight.T, rtol=0.01, atol=1e24)
    x[:, 3] = 1e-38
    assert (np.abs(_native.matmul("Q4_0", data, 64, x)) <= 1e-35).all()
    for value in (np.nan, np.inf):
        x[:, 3] = value
        assert not np.isfinite(_native.matmul("Q4_0", data, 64, x)).any()


@pytest.mark.parametrize("kind", ["Q8_0", "INT4_32", "BF16"])
def test_the_bundled_model_predicts_as_it_does_exactly(tiny: Checkpoint, kind: str) -> None:
    prompts = np.random.default_rng(3).integers(0, 4096, (3, 21))
    engine = open_engine(rounded_model(tiny, kind), "native")
    for step in (prompts, prompts[:, :1]):  # many tokens, a few
        fast = log_softmax(engine.logits(step))
        _native.set_exact(True)
        exact = log_softmax(engine.logits(step))
        _native.set_exact(False)
        assert not np.array_equal(fast, exact) or kind == "BF16"
        assert (np.exp(exact) * (exact - fast)).sum(axis=-1).mean() <= 1e-3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
