"""Every GGUF layout: gguf's own decoder, a slow twin and brute force are the oracles."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.blocks import BLOCKS, Block, Params, fitting, join, to_numpy
from tests.runtime.blocks import slow

LAYOUTS = [b for b in BLOCKS.values() if b.ggml_type is not None and not b.is_float]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)

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


def packed(layout: Block, w: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    return layout.pack(*layout.quantize(w, weight))


def error(layout: Block, w: np.ndarray, data: np.ndarray, weight: np.ndarray | float = 1) -> float:
    return float((weight * (layout.decode(data) - w).astype(np.float64) ** 2).sum())


def oracle(layout: Block, data: np.ndarray) -> np.ndarray:
    return gguf.dequantize(data, gguf.GGMLQuantizationType(layout.ggml_type))


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
def test_sizes_are_those_of_the_format(layout):
    kind = gguf.GGMLQuantizationType(layout.ggml_type)
    assert kind.name == layout.name
    assert gguf.GGML_QUANT_SIZES[kind] == (layout.size, layout.bytes)
    assert layout.size % layout.group == 0


@layouts
def test_random_bytes_decode_bit_for_bit_like_gguf(layout):
    data = np.random.default_rng(1).integers(0, 256, (64, layout.row_bytes(COLS)), np.uint8)
    with np.errstate(all="ignore"):  # some of the float16 scales are infinite or NaN
        assert_same_bits(layout.decode(data), oracle(layout, data))


@layouts
@pytest.mark.parametrize("make", [weights, edges])
def test_packed_weights_decode_bit_for_bit_like_gguf(layout, make):
    data = packed(layout, make(), importance())
    assert_same_bits(layout.decode(data), oracle(layout, data))


@pytest.mark.parametrize("name", slow.DECODE)
def test_decode_equals_its_drawing(name):
    layout = BLOCKS[name]
    data = np.concatenate([packed(layout, weights(2)), packed(layout, edges()[-3:])])
    blocks = data.reshape(-1, layout.bytes)
    twin = np.array([slow.DECODE[name](block) for block in blocks], np.float32)
    assert_same_bits(layout.decode(data), twin.reshape(len(data), -1))


@layouts
def test_torch_intends_exactly_the_values_of_the_file(layout):
    w = torch.from_numpy(np.concatenate([weights(), edges()]))
    codes, params = layout.quantize(w, torch.from_numpy(importance()))
    intended = layout.value(codes, *layout.grid(params)).numpy()
    assert_same_bits(layout.decode(layout.pack(codes.numpy(), to_numpy(params))), intended)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_bytes_made_by_gguf_survive_unpacking_and_packing(name):
    layout = BLOCKS[name]
    data = gguf.quantize(weights(), gguf.GGMLQuantizationType(layout.ggml_type))
    assert_same_bits(layout.decode(data), oracle(layout, data))
    np.testing.assert_array_equal(layout.pack(*layout.unpack(data)), data)


@layouts
def test_codes_and_params_survive_packing(layout):
    codes, params = layout.quantize(np.concatenate([weights(), edges()]), importance())
    data = layout.pack(codes, params)
    assert data.dtype == np.uint8 and data.shape == (len(codes), layout.row_bytes(COLS))
    again, same = layout.unpack(data)
    assert again.dtype == np.int32
    np.testing.assert_array_equal(again, codes)
    assert_same_params(same, params)
    np.testing.assert_array_equal(layout.pack(again, same), data)


@layouts
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_any_bytes_survive_unpacking_and_packing(layout, seed, rows, blocks):
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * layout.bytes), np.uint8)
    codes, params = layout.unpack(data)
    assert codes.shape == (rows, blocks * layout.size)
    # the float16 of a NaN may lose its payload on the way through float32
    finite = np.all([np.isfinite(p).reshape(rows, -1).all(1) for p in params.values()], axis=0)
    np.testing.assert_array_equal(layout.pack(codes, params)[finite], data[finite])


@layouts
@pytest.mark.parametrize("make", [weights, edges])
@pytest.mark.parametrize("weighted", [False, True])
def test_numpy_and_torch_fit_alike(layout, make, weighted):
    w, weight = make(), importance() if weighted else None
    ours, params = layout.quantize(w, weight)
    theirs, same = layout.quantize(
        torch.from_numpy(w), None if weight is None else torch.from_numpy(weight)
    )
    assert_same_params(params, to_numpy(same))
    np.testing.assert_array_equal(ours, theirs.numpy())


@layouts
@pytest.mark.parametrize("make", [weights, edges])
def test_torch_itself_fits_like_numpy(layout, make, monkeypatch):
    w, weight = make(), importance()
    params = layout.search(w, weight)
    monkeypatch.setattr(fitting, "in_numpy", lambda w: False)  # as on a GPU: all steps in torch
    same = layout.search(torch.from_numpy(w), torch.from_numpy(weight))
    assert_same_params(params, to_numpy(same))


@layouts
def test_params_and_values_of_edge_blocks_are_finite(layout):
    codes, params = layout.quantize(edges(), importance())
    for key, stored in params.items():
        assert stored.dtype == np.float32 and np.isfinite(stored).all(), key
    assert np.isfinite(layout.value(codes, *layout.grid(params))).all()
    assert codes.min() >= layout.low and codes.max() <= layout.high


@layouts
def test_codes_are_the_nearest_points_of_the_grid(layout):
    w = weights(4)
    codes, params = layout.quantize(w)
    scale, offset = layout.grid(params)
    every = np.arange(layout.low, layout.high + 1, dtype=np.int32)
    points = np.stack([layout.value(np.full_like(codes, c), scale, offset) for c in every])
    least = np.abs(points.astype(np.float64) - w).min(axis=0)
    ours = np.abs(layout.value(codes, scale, offset).astype(np.float64) - w)
    np.testing.assert_allclose(ours, least, rtol=1e-4, atol=1e-9)


@layouts
def test_single_columns_round_like_whole_rows(layout):
    w = weights(4)
    codes, params = layout.quantize(w)
    scale, offset = layout.grid(params)
    value = layout.value(codes, scale, offset)
    for col in (0, 17, 300, COLS - 1):
        here = np.s_[:, col : col + 1]
        one = layout.code(w[here], scale[here], offset[here])
        np.testing.assert_array_equal(one, codes[here])
        assert_same_bits(layout.value(one, scale[here], offset[here]), value[here])


@layouts
@pytest.mark.parametrize("weighted", [False, True])
def test_a_block_is_fitted_by_itself(layout, weighted):
    w, weight = weights(), importance() if weighted else None
    whole = layout.fit(w, weight)
    parts = []
    for start in range(0, COLS, layout.size):
        cols = slice(start, start + layout.size)
        parts.append(layout.fit(w[:, cols], None if weight is None else weight[cols]))
    assert_same_params(join(parts), whole)
    assert_same_params(layout.fit(w[5:6], weight), {k: v[5:6] for k, v in whole.items()})


@layouts
def test_many_rows_are_fitted_like_few(layout):
    w = np.tile(weights(), (40, 1))  # more than one tile high
    few = layout.fit(weights(), importance())
    assert_same_params(
        layout.fit(w, importance()), {k: np.concatenate([v] * 40) for k, v in few.items()}
    )


@layouts
def test_importance_counts_only_against_its_own_block(layout):
    w, weight = weights(), importance()
    factors = 2.0 ** np.arange(-80, COLS // layout.size - 80)
    scaled = weight * np.repeat(factors, layout.size).astype(np.float32)
    assert_same_params(layout.fit(w, scaled), layout.fit(w, weight))


@layouts
def test_no_importance_and_zero_importance_weigh_all_alike(layout):
    w = weights()
    plain = layout.fit(w)
    assert_same_params(layout.fit(w, np.zeros(COLS, np.float32)), plain)
    assert_same_params(layout.fit(w, np.full(COLS, 8, np.float32)), plain)


@layouts
def test_columns_without_importance_are_still_represented(layout):
    w, weight = weights(tails=False), importance()
    weight[::2] = 0
    miss = np.abs(layout.decode(packed(layout, w, weight)) - w)
    assert miss[:, ::2].max() < 2 * np.abs(w).max()
    assert error(layout, w, packed(layout, w, weight)) < (w.astype(np.float64) ** 2).sum() / 4


@layouts
def test_importance_lowers_the_error_it_weighs(layout):
    w, weight = weights(64, seed=4), importance() ** 2
    with_it, without = packed(layout, w, weight), packed(layout, w)
    assert error(layout, w, with_it, weight) < error(layout, w, without, weight)
    assert error(layout, w, without) < error(layout, w, with_it)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_fit_is_better_than_the_whole_range(name):
    layout, w = BLOCKS[name], weights(64, seed=5)
    whole = gguf.quantize(w, gguf.GGMLQuantizationType(layout.ggml_type))
    assert error(layout, w, packed(layout, w)) < 0.95 * error(layout, w, whole)


@layouts
def test_loss_is_what_the_codes_allow(layout):
    w = weights(64, seed=6, tails=False)
    share = error(layout, w, packed(layout, w)) / (w.astype(np.float64) ** 2).sum()
    codes = layout.high - layout.low + 1
    # one scale for all of a Gaussian loses 2.9 / 16**2 at 16 levels; a scale a group loses less
    assert share < 4 / codes**2


@layouts
def test_rows_that_do_not_divide_are_refused(layout):
    assert layout.fits(3 * layout.size) and not layout.fits(3 * layout.size + 16)


def group_errors(layout: Block, w: np.ndarray, params: Params, weight: np.ndarray) -> np.ndarray:
    """Weighted squared error of the nearest codes, (rows, groups)."""
    grid = layout.grid(params)
    miss = layout.value(layout.code(w, *grid), *grid).astype(np.float64) - w
    return (weight * miss**2).reshape(len(w), -1, layout.group).sum(axis=-1)


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"])
def test_scales_come_near_the_best_of_a_fine_sweep(name):
    layout, w, weight = BLOCKS[name], weights(4, seed=10), importance()
    ours = group_errors(layout, w, layout.fit(w, weight), weight)
    top = np.abs(w.reshape(len(w), -1, layout.size)).max(axis=-1)
    least = np.full_like(ours, np.inf)
    for part in np.concatenate([np.linspace(0.6, 1.8, 200), np.linspace(-1.8, -0.6, 200)]):
        d = (top / (layout.lowest_point * part)).astype(np.float16).astype(np.float32)
        least = np.minimum(least, group_errors(layout, w, {"d": d}, weight))
    assert ours.sum() < 1.06 * least.sum()


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_no_step_of_an_integer_is_much_better(name):
    layout, w, weight = BLOCKS[name], weights(8, seed=11), importance()
    params = layout.fit(w, weight)
    ours = least = group_errors(layout, w, params, weight)
    has_mins = "mins" in params
    span = (0, layout.most) if has_mins else layout.span
    for scale in (-1, 0, 1):
        for minimum in (-1, 0, 1) if has_mins else (0,):
            moved = params | {"scales": np.clip(params["scales"] + scale, *span)}
            if has_mins:
                moved["mins"] = np.clip(params["mins"] + minimum, *span)
            least = np.minimum(least, group_errors(layout, w, moved, weight))
    assert ours.sum() < 1.04 * least.sum()


@pytest.mark.parametrize("layout", BLOCKS.values(), ids=lambda layout: layout.name)
def test_the_narrower_type_has_shorter_blocks_of_the_same_containers(layout):
    if layout.narrower is not None:
        narrower = BLOCKS[layout.narrower]
        assert layout.size % narrower.size == 0
        assert narrower.size < layout.size
        assert (narrower.ggml_type is None) == (layout.ggml_type is None)


def test_every_type_of_blocks_longer_than_32_has_a_narrower_one():
    assert all(layout.narrower for layout in BLOCKS.values() if layout.size > 32)
