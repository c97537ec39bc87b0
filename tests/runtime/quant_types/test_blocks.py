"""Every GGUF layout: gguf's own decoder, a slow twin and brute force are the oracles."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.quant_types import QUANT_TYPES, Params, QuantType, fitting, join, to_numpy
from tests.runtime.quant_types import slow

pytestmark = pytest.mark.numeric

LAYOUTS = [b for b in QUANT_TYPES.values() if b.ggml_type is not None and not b.is_float]
layouts = pytest.mark.parametrize("qtype", LAYOUTS, ids=lambda qtype: qtype.name)

COLS = 512


def weights(rows: int = 16, seed: int = 0, tails: bool = True) -> np.ndarray:
    """Random rows, some heavy-tailed, some away from 0."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(rows, COLS)) * 0.02
    if tails:
        w[::3] = rng.standard_t(3, size=w[::3].shape) * 0.02
        w[1::3] += 0.03
    return w.astype(np.float32)


def edges() -> np.ndarray:
    """Constant, zero, huge, tiny, denormal and lone blocks, one row each."""
    rows = [np.full(COLS, x) for x in (0, 1, -1, 3e-5, 1e30, -1e30, 1e-30, 1e-42)]
    base = weights(1, seed=9, tails=False)[0].astype(np.float64)
    rows += [base * scale for scale in (1e32, 1e6, 1e-4, 1e-6, 1e-30)]
    for at, size in ((3, 5.0), (200, -1e-3), (31, 1e30), (255, 6e-8)):
        lone = np.zeros(COLS)
        lone[at] = size
        rows += [lone, base + lone]
    return np.stack(rows).astype(np.float32)


def importance(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=COLS).astype(np.float32)


def packed(qtype: QuantType, w: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    return qtype.pack(*qtype.quantize(w, weight))


def error(
    qtype: QuantType, w: np.ndarray, data: np.ndarray, weight: np.ndarray | float = 1
) -> float:
    return float((weight * (qtype.decode(data) - w).astype(np.float64) ** 2).sum())


def oracle(qtype: QuantType, data: np.ndarray) -> np.ndarray:
    return gguf.dequantize(data, gguf.GGMLQuantizationType(qtype.ggml_type))


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal bit for bit, signs of zeros included; NaN where the other has NaN."""
    assert ours.dtype == theirs.dtype == np.float32 and ours.shape == theirs.shape
    number = ~np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), ~number)
    np.testing.assert_array_equal(ours.view(np.uint32)[number], theirs.view(np.uint32)[number])


def assert_same_params(ours: Params, theirs: Params) -> None:
    assert ours.keys() == theirs.keys()
    for key, stored in ours.items():
        np.testing.assert_array_equal(stored, theirs[key], err_msg=key)


@layouts
def test_sizes_are_those_of_the_format(qtype):
    kind = gguf.GGMLQuantizationType(qtype.ggml_type)
    assert kind.name == qtype.name
    assert gguf.GGML_QUANT_SIZES[kind] == (qtype.size, qtype.bytes)
    assert qtype.size % qtype.group == 0


@layouts
def test_random_bytes_decode_bit_for_bit_like_gguf(qtype):
    data = np.random.default_rng(1).integers(0, 256, (64, qtype.row_bytes(COLS)), np.uint8)
    with np.errstate(all="ignore"):  # some of the float16 scales are infinite or NaN
        assert_same_bits(qtype.decode(data), oracle(qtype, data))


@layouts
@pytest.mark.parametrize("make", [weights, edges])
def test_packed_weights_decode_bit_for_bit_like_gguf(qtype, make):
    data = packed(qtype, make(), importance())
    assert_same_bits(qtype.decode(data), oracle(qtype, data))


@pytest.mark.parametrize("name", slow.DECODE)
def test_decode_equals_its_drawing(name):
    qtype = QUANT_TYPES[name]
    data = np.concatenate([packed(qtype, weights(2)), packed(qtype, edges()[-3:])])
    blocks = data.reshape(-1, qtype.bytes)
    twin = np.array([slow.DECODE[name](qtype) for qtype in blocks], np.float32)
    assert_same_bits(qtype.decode(data), twin.reshape(len(data), -1))


@layouts
def test_torch_intends_exactly_the_values_of_the_file(qtype):
    w = torch.from_numpy(np.concatenate([weights(), edges()]))
    codes, params = qtype.quantize(w, torch.from_numpy(importance()))
    intended = qtype.value(codes, *qtype.grid(params)).numpy()
    assert_same_bits(qtype.decode(qtype.pack(codes.numpy(), to_numpy(params))), intended)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_bytes_made_by_gguf_survive_unpacking_and_packing(name):
    qtype = QUANT_TYPES[name]
    data = gguf.quantize(weights(), gguf.GGMLQuantizationType(qtype.ggml_type))
    assert_same_bits(qtype.decode(data), oracle(qtype, data))
    np.testing.assert_array_equal(qtype.pack(*qtype.unpack(data)), data)


@layouts
def test_codes_and_params_survive_packing(qtype):
    codes, params = qtype.quantize(np.concatenate([weights(), edges()]), importance())
    data = qtype.pack(codes, params)
    assert data.dtype == np.uint8 and data.shape == (len(codes), qtype.row_bytes(COLS))
    again, same = qtype.unpack(data)
    assert again.dtype == np.int32
    np.testing.assert_array_equal(again, codes)
    assert_same_params(same, params)
    np.testing.assert_array_equal(qtype.pack(again, same), data)


@layouts
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_any_bytes_survive_unpacking_and_packing(qtype, seed, rows, blocks):
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * qtype.bytes), np.uint8)
    codes, params = qtype.unpack(data)
    assert codes.shape == (rows, blocks * qtype.size)
    # the float16 of a NaN may lose its payload on the way through float32
    finite = np.all([np.isfinite(p).reshape(rows, -1).all(1) for p in params.values()], axis=0)
    np.testing.assert_array_equal(qtype.pack(codes, params)[finite], data[finite])


@layouts
@pytest.mark.parametrize("make", [weights, edges])
@pytest.mark.parametrize("weighted", [False, True])
def test_numpy_and_torch_fit_alike(qtype, make, weighted):
    w, weight = make(), importance() if weighted else None
    ours, params = qtype.quantize(w, weight)
    theirs, same = qtype.quantize(
        torch.from_numpy(w), None if weight is None else torch.from_numpy(weight)
    )
    assert_same_params(params, to_numpy(same))
    np.testing.assert_array_equal(ours, theirs.numpy())


@layouts
@pytest.mark.parametrize("make", [weights, edges])
def test_torch_itself_fits_like_numpy(qtype, make, monkeypatch):
    w, weight = make(), importance()
    params = qtype.search(w, weight)
    monkeypatch.setattr(fitting, "in_numpy", lambda w: False)  # as on a GPU: all steps in torch
    same = qtype.search(torch.from_numpy(w), torch.from_numpy(weight))
    assert_same_params(params, to_numpy(same))


@layouts
def test_params_and_values_of_edge_blocks_are_finite(qtype):
    codes, params = qtype.quantize(edges(), importance())
    for key, stored in params.items():
        assert stored.dtype == np.float32 and np.isfinite(stored).all(), key
    assert np.isfinite(qtype.value(codes, *qtype.grid(params))).all()
    assert codes.min() >= qtype.low and codes.max() <= qtype.high


@layouts
def test_codes_are_the_nearest_points_of_the_grid(qtype):
    w = weights(4)
    codes, params = qtype.quantize(w)
    scale, offset = qtype.grid(params)
    every = np.arange(qtype.low, qtype.high + 1, dtype=np.int32)
    points = np.stack([qtype.value(np.full_like(codes, c), scale, offset) for c in every])
    least = np.abs(points.astype(np.float64) - w).min(axis=0)
    ours = np.abs(qtype.value(codes, scale, offset).astype(np.float64) - w)
    np.testing.assert_allclose(ours, least, rtol=1e-4, atol=1e-9)


@layouts
def test_single_columns_round_like_whole_rows(qtype):
    w = weights(4)
    codes, params = qtype.quantize(w)
    scale, offset = qtype.grid(params)
    value = qtype.value(codes, scale, offset)
    for col in (0, 17, 300, COLS - 1):
        here = np.s_[:, col : col + 1]
        one = qtype.code(w[here], scale[here], offset[here])
        np.testing.assert_array_equal(one, codes[here])
        assert_same_bits(qtype.value(one, scale[here], offset[here]), value[here])


@layouts
@pytest.mark.parametrize("weighted", [False, True])
def test_a_block_is_fitted_by_itself(qtype, weighted):
    w, weight = weights(), importance() if weighted else None
    whole = qtype.fit(w, weight)
    parts = []
    for start in range(0, COLS, qtype.size):
        cols = slice(start, start + qtype.size)
        parts.append(qtype.fit(w[:, cols], None if weight is None else weight[cols]))
    assert_same_params(join(parts), whole)
    assert_same_params(qtype.fit(w[5:6], weight), {k: v[5:6] for k, v in whole.items()})


@layouts
def test_many_rows_are_fitted_like_few(qtype):
    w = np.tile(weights(), (40, 1))  # more than one tile high
    few = qtype.fit(weights(), importance())
    assert_same_params(
        qtype.fit(w, importance()), {k: np.concatenate([v] * 40) for k, v in few.items()}
    )


@layouts
def test_importance_counts_only_against_its_own_block(qtype):
    w, weight = weights(), importance()
    factors = 2.0 ** np.arange(-80, COLS // qtype.size - 80)
    scaled = weight * np.repeat(factors, qtype.size).astype(np.float32)
    assert_same_params(qtype.fit(w, scaled), qtype.fit(w, weight))


@layouts
def test_no_importance_and_zero_importance_weigh_all_alike(qtype):
    w = weights()
    plain = qtype.fit(w)
    assert_same_params(qtype.fit(w, np.zeros(COLS, np.float32)), plain)
    assert_same_params(qtype.fit(w, np.full(COLS, 8, np.float32)), plain)


@layouts
def test_columns_without_importance_are_still_represented(qtype):
    w, weight = weights(tails=False), importance()
    weight[::2] = 0
    miss = np.abs(qtype.decode(packed(qtype, w, weight)) - w)
    assert miss[:, ::2].max() < 2 * np.abs(w).max()
    assert error(qtype, w, packed(qtype, w, weight)) < (w.astype(np.float64) ** 2).sum() / 4


@layouts
def test_importance_lowers_the_error_it_weighs(qtype):
    w, weight = weights(64, seed=4), importance() ** 2
    with_it, without = packed(qtype, w, weight), packed(qtype, w)
    assert error(qtype, w, with_it, weight) < error(qtype, w, without, weight)
    assert error(qtype, w, without) < error(qtype, w, with_it)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_fit_is_better_than_the_whole_range(name):
    qtype, w = QUANT_TYPES[name], weights(64, seed=5)
    whole = gguf.quantize(w, gguf.GGMLQuantizationType(qtype.ggml_type))
    assert error(qtype, w, packed(qtype, w)) < 0.95 * error(qtype, w, whole)


@layouts
def test_loss_is_what_the_codes_allow(qtype):
    w = weights(64, seed=6, tails=False)
    share = error(qtype, w, packed(qtype, w)) / (w.astype(np.float64) ** 2).sum()
    codes = qtype.high - qtype.low + 1
    # one scale for all of a Gaussian loses 2.9 / 16**2 at 16 levels; a scale a group loses less
    assert share < 4 / codes**2


@layouts
def test_rows_that_do_not_divide_are_refused(qtype):
    assert qtype.fits(3 * qtype.size) and not qtype.fits(3 * qtype.size + 16)


def group_errors(qtype: QuantType, w: np.ndarray, params: Params, weight: np.ndarray) -> np.ndarray:
    """Weighted squared error of the nearest codes, (rows, groups)."""
    grid = qtype.grid(params)
    miss = qtype.value(qtype.code(w, *grid), *grid).astype(np.float64) - w
    return (weight * miss**2).reshape(len(w), -1, qtype.group).sum(axis=-1)


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"])
def test_scales_come_near_the_best_of_a_fine_sweep(name):
    qtype, w, weight = QUANT_TYPES[name], weights(4, seed=10), importance()
    ours = group_errors(qtype, w, qtype.fit(w, weight), weight)
    top = np.abs(w.reshape(len(w), -1, qtype.size)).max(axis=-1)
    least = np.full_like(ours, np.inf)
    for part in np.concatenate([np.linspace(0.6, 1.8, 200), np.linspace(-1.8, -0.6, 200)]):
        d = (top / (qtype.lowest_point * part)).astype(np.float16).astype(np.float32)
        least = np.minimum(least, group_errors(qtype, w, {"d": d}, weight))
    assert ours.sum() < 1.06 * least.sum()


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_no_step_of_an_integer_is_much_better(name):
    qtype, w, weight = QUANT_TYPES[name], weights(8, seed=11), importance()
    params = qtype.fit(w, weight)
    ours = least = group_errors(qtype, w, params, weight)
    has_mins = "mins" in params
    span = (0, qtype.most) if has_mins else qtype.span
    for scale in (-1, 0, 1):
        for minimum in (-1, 0, 1) if has_mins else (0,):
            moved = params | {"scales": np.clip(params["scales"] + scale, *span)}
            if has_mins:
                moved["mins"] = np.clip(params["mins"] + minimum, *span)
            least = np.minimum(least, group_errors(qtype, w, moved, weight))
    assert ours.sum() < 1.04 * least.sum()


@pytest.mark.parametrize("qtype", QUANT_TYPES.values(), ids=lambda qtype: qtype.name)
def test_the_narrower_type_has_shorter_blocks_of_the_same_containers(qtype):
    if qtype.narrower is not None:
        narrower = QUANT_TYPES[qtype.narrower]
        assert qtype.size % narrower.size == 0
        assert narrower.size < qtype.size
        assert (narrower.ggml_type is None) == (qtype.ggml_type is None)


def test_every_type_of_blocks_longer_than_32_has_a_narrower_one():
    assert all(qtype.narrower for qtype in QUANT_TYPES.values() if qtype.size > 32)


@layouts
def test_rows_are_decoded_in_pieces_to_the_same_values(qtype: QuantType) -> None:
    data = np.random.default_rng(0).integers(0, 256, (7, qtype.row_bytes(COLS)), np.uint8)
    with np.errstate(all="ignore"):  # any bytes, and so any scales
        whole = qtype.in_pieces(data, 7 * COLS)
        assert np.array_equal(qtype.in_pieces(data, 3 * COLS), whole, equal_nan=True)
        assert np.array_equal(qtype.in_pieces(data, 1), whole, equal_nan=True)
