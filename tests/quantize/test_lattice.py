"""Weights on a grid: all of their codes are found, and none where there is no grid."""

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from quantize.lattice import SAMPLE, exact_rows, on_grid
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt
from runtime.quant_types.plain import Affine, Symmetric
from runtime.tensor import Tensor

SHAPE = (16, 256)
STORED = ("F32", "BF16", "F16")
GRIDS = [
    name
    for name, qtype in QUANT_TYPES.items()
    if isinstance(qtype, Symmetric | OnnxInt) and name != "IQ4_NL" and not qtype.ordered
]


def lattice(qtype, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of random blocks, as a quantizer leaves them: steps are float16, the lowest
    or the highest code is there."""
    rng = np.random.default_rng(seed)
    rows, cols = SHAPE
    step = rng.uniform(1e-4, 2e-2, (rows, cols // qtype.size)).astype(np.float16)
    if isinstance(qtype, OnnxInt):
        params = {"scale": step.astype(np.float32)}
        if not qtype.symmetric:
            params["zero"] = rng.integers(0, qtype.high + 1, step.shape).astype(np.float32)
    else:
        params = {"d": step.astype(np.float32)}
    spread = rng.normal(0, 0.3, SHAPE) * (qtype.high - qtype.low) + (qtype.high + qtype.low) / 2
    codes = np.clip(np.round(spread), qtype.low, qtype.high).astype(np.int32)
    codes[:, 0 :: qtype.size] = qtype.low
    codes[:, 1 :: qtype.size] = qtype.high
    return codes, np.asarray(qtype.value(codes, *qtype.grid(params)), np.float32)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", GRIDS)
def test_every_code_of_a_grid_is_found(name: str, stored: str) -> None:
    qtype = QUANT_TYPES[name]
    codes, values = lattice(qtype)
    tensor = Tensor.dense("w", values, stored)
    rows = exact_rows(tensor, qtype)
    assert rows is not None
    found, params = qtype.unpack(rows)
    again = Tensor.dense("w", qtype.value(found, *qtype.grid(params)), stored)
    np.testing.assert_array_equal(again.data, tensor.data)  # the same numbers, as stored
    if stored == "BF16" and qtype.bits > 8:
        return  # numbers are so far apart there that two multiples are stored as one
    # the same places: a code and its zero point may both be one higher
    scale, offset = qtype.grid(params)
    steps = found - offset if isinstance(qtype, OnnxInt) else found
    for start in range(0, SHAPE[1], qtype.size):
        block, truth = (x[:, start : start + qtype.size] for x in (steps, codes))
        np.testing.assert_array_equal(np.abs(block - block[:, :1]), np.abs(truth - truth[:, :1]))


@pytest.mark.parametrize("stored", STORED)
def test_the_minimum_of_an_affine_type_is_found_where_float16_holds_it(stored: str) -> None:
    qtype = QUANT_TYPES["Q4_1"]
    assert isinstance(qtype, Affine)
    rng = np.random.default_rng(1)
    step = (rng.integers(1, 64, (32, 4)) / 4096).astype(np.float32)
    params = {"d": step, "m": -step * rng.integers(0, 16, step.shape).astype(np.float32)}
    codes = rng.integers(0, 16, (32, 128)).astype(np.int32)
    codes[:, ::32], codes[:, 1::32] = 0, 15
    values = np.asarray(qtype.value(codes, *qtype.grid(params)), np.float32)
    rows = exact_rows(Tensor.dense("w", values, stored), qtype)
    assert rows is not None
    np.testing.assert_array_equal(qtype.unpack(rows)[0], codes)


def test_codes_of_mxfp4_lie_on_grids_of_five_bits_and_more() -> None:
    rng = np.random.default_rng(2)
    points = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = (rng.choice(points, SHAPE) * rng.choice([-1, 1], SHAPE)).astype(np.float32)
    values[:, ::32] = 6
    values += 0.0  # none of the zeros is negative
    values = (values * np.exp2(rng.integers(-8, -4, (SHAPE[0], 1)))).astype(np.float32)
    tensor = Tensor.dense("w", values, "BF16")
    for name in ("Q5_0", "Q8_0", "INT8_32_SYM_F16"):
        rows = exact_rows(tensor, QUANT_TYPES[name])
        assert rows is not None
        again = Tensor.dense("w", QUANT_TYPES[name].decode(rows), "BF16")
        np.testing.assert_array_equal(again.data, tensor.data)
    assert exact_rows(tensor, QUANT_TYPES["Q4_0"]) is None


@pytest.mark.parametrize("stored", STORED)
def test_bytes_of_other_tools_keep_their_lowest_code(stored: str) -> None:
    """GPTQ's 8 bits go down to -128, which no rounding to Q8_0 writes."""
    rng = np.random.default_rng(4)
    qtype = QUANT_TYPES["Q8_0"]
    codes = rng.integers(-128, 128, SHAPE).astype(np.int32)
    codes[:, ::32] = -128
    scales = rng.uniform(0.001, 0.02, (SHAPE[0], SHAPE[1] // 32)).astype(np.float16)
    values = codes * np.repeat(scales.astype(np.float32), 32, axis=1)
    rows = exact_rows(Tensor.dense("w", values.astype(np.float32), stored), qtype)
    assert rows is not None
    np.testing.assert_array_equal(qtype.unpack(rows)[0], codes)
    rounded, params = qtype.quantize(values.astype(np.float32))
    assert rounded.min() == -127


@pytest.mark.parametrize("name", [*GRIDS, "Q4_1", "Q5_1"])
def test_trained_and_random_weights_lie_on_no_grid(name: str) -> None:
    qtype = QUANT_TYPES[name]
    tensors = open_checkpoint(None).tensors
    noise = np.random.default_rng(3).normal(0, 0.02, SHAPE).astype(np.float32)
    trained = [tensors[n] for n in ("blk.0.ffn_down.weight", "blk.3.attn_k.weight")]
    for tensor in (*trained, *(Tensor.dense("w", noise, stored) for stored in STORED)):
        assert exact_rows(tensor, qtype) is None
    found = on_grid(trained[0].decode(0, 1), trained[0].qtype.name, qtype)
    assert found is not None and not found.on_grid.any()


@pytest.mark.parametrize("name", ["Q4_K", "IQ4_NL", "F16"])
def test_other_types_have_no_such_grid(name: str) -> None:
    values = np.ones((4, 256), np.float32)
    assert exact_rows(Tensor.dense("w", values), QUANT_TYPES[name]) is None


def test_blocks_of_zeros_and_one_stray_weight() -> None:
    qtype = QUANT_TYPES["Q4_0"]
    codes, values = lattice(qtype)
    values[3, :32] = 0
    tensor = Tensor.dense("w", values, "BF16")
    rows = exact_rows(tensor, qtype)
    assert rows is not None and not qtype.decode(rows)[3, :32].any()
    values[12, 7] *= 1.03
    assert exact_rows(Tensor.dense("w", values, "BF16"), qtype) is None


@pytest.mark.parametrize("source", ["Q4_K", "Q6_K", "IQ4_NL", "Q8_0"])
def test_a_weight_on_no_grid_costs_a_look_at_some_rows(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = np.random.default_rng(0).normal(0, 0.02, (4 * SAMPLE, 256)).astype(np.float32)
    kind, read = QUANT_TYPES[source], 0
    tensor = Tensor("w", w.shape, kind, kind.pack(*kind.quantize(w)))
    decode = Tensor.decode

    def counted(self: Tensor, start: int = 0, stop: int | None = None) -> np.ndarray:
        nonlocal read
        rows = decode(self, start, stop)
        read += len(rows)
        return rows

    monkeypatch.setattr(Tensor, "decode", counted)
    assert exact_rows(tensor, QUANT_TYPES["INT8_128_SYM_F16"]) is None
    assert read <= SAMPLE
