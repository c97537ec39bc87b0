"""INT2, INT4 and INT8 of ONNX: onnxruntime's own operators are the oracle."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt

pytestmark = pytest.mark.numeric

LAYOUTS = [q for q in QUANT_TYPES.values() if isinstance(q, OnnxInt) and not q.ordered]
layouts = pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)


def weights(rows: int = 6, cols: int = 384, seed: int = 0) -> np.ndarray:
    """Random rows, some of them away from 0."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, cols)) + rng.normal(size=(rows, 1))).astype(np.float32)


def run(op: str, inputs: list, feed: np.ndarray, **attributes: int) -> np.ndarray:
    """One com.microsoft operator in onnxruntime; the None among the inputs is the feed.

    float16 inputs pass through a Cast, as the exporter writes it.
    """
    names = [f"w{i}" if a is not None else "" for i, a in enumerate(inputs)]
    names[names.index("")] = "x"
    stored = [
        numpy_helper.from_array(a, n) for n, a in zip(names, inputs, strict=True) if n[:1] == "w"
    ]
    half = [proto.name for proto in stored if proto.data_type == TensorProto.FLOAT16]
    casts = [helper.make_node("Cast", [n], [f"{n}.f32"], to=TensorProto.FLOAT) for n in half]
    names = [f"{n}.f32" if n in half else n for n in names]
    node = helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)
    kind = TensorProto.INT64 if feed.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        [*casts, node],
        "one",
        [helper.make_tensor_value_info("x", kind, feed.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0]


def rounded(qtype: OnnxInt, least: float = 0.0) -> dict[str, float]:
    """How far a weight may be off whose code is right: by the rounding of its scale."""
    half = {"rtol": 2**-11, "atol": 2**-25 * qtype.high}
    return half if qtype.half else {"rtol": 1e-6, "atol": least}


def error(qtype: OnnxInt, w: np.ndarray, codes, params, importance=1.0) -> float:
    return float(np.sum(importance * (qtype.value(codes, *qtype.grid(params)) - w) ** 2))


def test_every_width_and_block_is_registered():
    registered = [qtype for qtype in QUANT_TYPES.values() if isinstance(qtype, OnnxInt)]
    assert {qtype.name for qtype in registered} == {
        f"INT{bits}_{size}{kind}{half}"
        for bits in (2, 4, 8)
        for size in (32, 64, 128)
        for kind in ("", "_SYM")
        for half in ("", "_F16", "_ACT", "_F16_ACT")
    }


@layouts
def test_matmulnbits_sees_the_weights_that_we_decode(qtype):
    w = weights()
    data = qtype.pack(*qtype.quantize(w))
    quants, scales, zeros = qtype.split(data)
    seen = run(
        "MatMulNBits",
        [None, quants, scales, *([] if zeros is None else [zeros])],
        np.eye(w.shape[1], dtype=np.float32),
        K=w.shape[1],
        N=len(w),
        bits=qtype.code_bits,
        block_size=qtype.size,
    ).T
    np.testing.assert_array_equal(seen, qtype.decode(data))


@layouts
def test_gatherblockquantized_sees_the_weights_that_we_decode(qtype):
    w = weights()
    data = qtype.pack(*qtype.quantize(w))
    quants, scales, zeros = qtype.split(data)
    seen = run(
        "GatherBlockQuantized",
        [quants.reshape(len(w), -1), None, scales, *([] if zeros is None else [zeros])],
        np.arange(len(w))[None],
        gather_axis=0,
        quantize_axis=1,
        bits=qtype.code_bits,
        block_size=qtype.size,
    )[0]
    np.testing.assert_array_equal(seen, qtype.decode(data))


@layouts
def test_records_and_initializers_round_trip(qtype):
    w = weights(cols=qtype.size * 3)  # an odd number of blocks pads the zero points
    codes, params = qtype.quantize(w)
    data = qtype.pack(codes, params)
    assert data.dtype == np.uint8 and data.shape == (len(w), qtype.row_bytes(w.shape[1]))
    again, same = qtype.unpack(data)
    np.testing.assert_array_equal(again, codes)
    for key, stored in params.items():
        np.testing.assert_array_equal(same[key], stored)
    parts = qtype.split(data)
    np.testing.assert_array_equal(qtype.join_parts(*parts), data)
    in_file = sum(part.nbytes for part in parts if part is not None)
    spare = -3 * qtype.code_bits % 8 / 8  # of the last byte of a row's zero points
    padding = 0 if parts[2] is None else len(w) * spare
    assert in_file == qtype.bits * w.size / 8 + padding


@layouts
@pytest.mark.parametrize("weighted", [False, True])
def test_numpy_and_torch_fit_alike(qtype, weighted):
    w = weights(seed=1)
    importance = np.random.default_rng(2).exponential(size=w.shape[1]).astype(np.float32)
    ours, params = qtype.quantize(w, importance if weighted else None)
    theirs, same = qtype.quantize(
        torch.from_numpy(w), torch.from_numpy(importance) if weighted else None
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
    for key, stored in params.items():
        np.testing.assert_array_equal(stored, same[key].numpy())


@layouts
def test_fit_is_better_than_the_whole_range(qtype):
    w = weights(rows=32, seed=3)
    blocks = w.reshape(len(w), -1, qtype.size)
    if qtype.symmetric:
        plain = {"scale": np.abs(blocks).max(-1) / (qtype.high - qtype.middle)}
    else:
        low, high = blocks.min(-1).clip(max=0), blocks.max(-1).clip(min=0)
        scale = (high - low) / qtype.high
        plain = {"scale": scale, "zero": np.round(-low / scale)}
    plain["scale"] = qtype.round_to_stored(plain["scale"].astype(np.float32))
    codes = qtype.code(w, *qtype.grid(plain))
    assert error(qtype, w, *qtype.quantize(w)) < 0.98 * error(qtype, w, codes, plain)


@layouts
def test_importance_lowers_the_error_it_weights(qtype):
    w = weights(rows=32, seed=4)
    importance = (np.random.default_rng(5).exponential(size=w.shape[1]) ** 3).astype(np.float32)
    weighted = error(qtype, w, *qtype.quantize(w, importance), importance)
    assert weighted < error(qtype, w, *qtype.quantize(w), importance)


@layouts
@pytest.mark.parametrize("size", [0.0, 1.0, 1e30, -1e30, 1e-30, 1e-42])
def test_constant_blocks_decode_to_themselves(qtype, size):
    size = np.sign(size) * abs(size) ** (1 / 8) if qtype.half else size
    w = np.full((2, 256), size, np.float32)
    values = qtype.decode(qtype.pack(*qtype.quantize(w)))
    np.testing.assert_allclose(values, w, **rounded(qtype, 1e-28))


@layouts
@pytest.mark.parametrize("size", [1e30, 1e-20])
def test_huge_and_tiny_blocks_lose_no_more_than_plain_ones(qtype, size):
    w = weights()
    size = size ** (1 / 8) if qtype.half else size
    plain = qtype.decode(qtype.pack(*qtype.quantize(w)))
    scaled = qtype.decode(qtype.pack(*qtype.quantize(w * np.float32(size))))
    np.testing.assert_allclose(scaled / np.float32(size), plain, atol=np.abs(w).max() / 8)
    assert np.isfinite(scaled).all()


@layouts
def test_importance_of_zero_and_lone_outliers_stay_finite(qtype):
    w = np.zeros((2, 256), np.float32)
    w[0, 3], w[1, 200] = 5.0, -1e-3
    for importance in (np.zeros(256, np.float32), np.eye(256, dtype=np.float32)[3]):
        values = qtype.decode(qtype.pack(*qtype.quantize(w, importance)))
        np.testing.assert_allclose(values, w, **rounded(qtype))


@layouts
def test_rows_that_do_not_divide_are_refused(qtype):
    assert qtype.fits(qtype.size * 3) and not qtype.fits(qtype.size * 3 + 16)
