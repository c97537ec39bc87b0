"""A forward pass in one native call, against the definition on numpy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.checkpoint import bundled, open_checkpoint
from runtime import memory
from runtime.engine import Engine, open_engine
from runtime.errors import EdgequantError
from runtime.model import Model
from tests.conftest import CONFIGS, config
from tests.random_checkpoint import random_checkpoint
from tests.small_models import assert_near, kl

_native: Any = pytest.importorskip(
    "runtime._native", reason="the kernels are not compiled; run `pip install -e .`"
)

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("exact_products")]

ODD = {
    "shared-by-all": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 34},
    "none-shared": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 64},
    "odd-widths": {"hidden_size": 50, "intermediate_size": 77, "head_dim": 18},
}
"""Heads that are not hidden_size / heads wide, and widths that fill no register."""


@pytest.fixture(scope="module")
def models(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every family, scaling and shape: name -> Model."""
    root = tmp_path_factory.mktemp("odd")
    found = {name: open_checkpoint(path).model() for name, path in random_models.items()}
    for name, sizes in ODD.items():
        random_checkpoint(root / name, config("qwen2-untied", **sizes), bundled())
        found[name] = open_checkpoint(root / name).model()
    return found


@pytest.fixture
def model(models: dict[str, Model]) -> Model:
    """One of them, for what does not depend on the shape."""
    return models["qwen2-yarn"]


def ids_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4096, shape)


def in_steps(engine: Engine, ids: np.ndarray, *cuts: int) -> np.ndarray:
    """Logits of ids given in pieces that end at `cuts`, with a cache."""
    cache = engine.new_cache(ids.shape[0], ids.shape[1])
    pieces = np.split(ids, cuts, axis=1)
    return np.concatenate([engine.logits(piece, cache) for piece in pieces], axis=1)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", [*CONFIGS, *ODD])
def test_logits_are_those_of_the_definition(
    name: str, instructions: str, models: dict[str, Model]
) -> None:
    _native.set_instruction_set(instructions)
    engine, ids = open_engine(models[name], "native", kv="f32"), ids_of(2, 41)
    expected = open_engine(models[name], "numpy").logits(ids)
    assert_near(engine.logits(ids), expected)
    assert_near(in_steps(engine, ids, 30, 31, 40), expected)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
def test_a_float16_cache_changes_logits_by_its_rounding(instructions: str, model: Model) -> None:
    _native.set_instruction_set(instructions)
    ids = ids_of(2, 150)
    expected = open_engine(model, "numpy").logits(ids)
    found = in_steps(open_engine(model, "native"), ids, 100, 149)
    assert 0 < np.abs(found - expected).max() < 1e-3
    assert kl(expected, found) < 1e-7


@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_steps_with_a_cache_equal_the_whole_to_the_last_bit(kv: str, model: Model) -> None:
    engine, ids = open_engine(model, "native", kv=kv), ids_of(3, 300)
    whole = engine.logits(ids)
    np.testing.assert_array_equal(in_steps(engine, ids, 1, 33, 160, 299), whole)


def test_a_long_context_is_attended_to_in_segments(model: Model) -> None:
    ids = ids_of(1, 1300)  # segments of 512 keys for the last token, one for the whole
    engine = open_engine(model, "native", kv="f32")
    expected = open_engine(model, "numpy").logits(ids)
    found = in_steps(engine, ids, 1290, 1299)
    assert_near(found, expected)


def test_prompts_longer_than_a_piece_go_in_pieces(model: Model) -> None:
    engine = open_engine(model, "native", kv="f32")
    most = engine.decoder.rows_at_once
    ids = ids_of(2, most + 3)
    expected = open_engine(model, "numpy").logits(ids)
    assert_near(engine.logits(ids), expected)
    assert_near(engine.logits(ids, last=True), expected[:, -1:])


def test_batches_larger_than_a_piece_go_in_pieces(model: Model) -> None:
    engine = open_engine(model, "native", kv="f32")
    ids = ids_of(engine.decoder.rows_at_once // 4 + 5, 4)
    expected = open_engine(model, "numpy").logits(ids)
    assert_near(engine.logits(ids), expected)
    assert_near(in_steps(engine, ids, 3), expected)


def test_a_wide_model_goes_in_pieces_of_fewer_rows(model: Model, tmp_path: Path) -> None:
    sizes = {"intermediate_size": 40_000, "num_hidden_layers": 1}
    random_checkpoint(tmp_path / "wide", config("qwen2-tied", **sizes), bundled())
    wide = open_checkpoint(tmp_path / "wide").model()
    engine = open_engine(wide, "native", kv="f32")
    most = engine.decoder.rows_at_once
    assert most < open_engine(model, "native").decoder.rows_at_once
    ids = ids_of(1, most + 1)
    expected = open_engine(wide, "numpy").logits(ids)
    assert_near(engine.logits(ids), expected)


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_last_gives_only_the_last_tokens_logits(name: str, models: dict[str, Model]) -> None:
    engine, ids = open_engine(models[name], "native"), ids_of(3, 40)
    whole = engine.logits(ids)
    last = engine.logits(ids, last=True)
    assert last.shape == (3, 1, 4096)
    np.testing.assert_array_equal(last, whole[:, -1:])


def test_a_cache_after_last_holds_every_token(model: Model) -> None:
    engine, ids = open_engine(model, "native"), ids_of(2, 50)
    cache = engine.new_cache(2, 50)
    engine.logits(ids[:, :49], cache, last=True)
    assert (cache.length, cache.capacity) == (49, 50)
    np.testing.assert_array_equal(engine.logits(ids[:, 49:], cache), engine.logits(ids)[:, 49:])


@pytest.mark.parametrize("exact", [True, False])
def test_logits_do_not_depend_on_the_threads(exact: bool, model: Model) -> None:
    _native.set_exact(exact)
    engine, ids, found = open_engine(model, "native"), ids_of(2, 600), []
    for threads in (1, 2, 5):
        _native.set_threads(threads)
        found.append(in_steps(engine, ids, 598, 599))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_rows_of_a_batch_are_independent(model: Model) -> None:
    engine, ids = open_engine(model, "native"), ids_of(3, 20)
    together = engine.logits(ids)
    for row in range(3):
        np.testing.assert_array_equal(engine.logits(ids[row : row + 1])[0], together[row])


def test_two_caches_do_not_know_of_each_other(model: Model) -> None:
    engine, ids = open_engine(model, "native"), ids_of(2, 30)
    caches = [engine.new_cache(1, 30) for _ in range(2)]
    for at in range(0, 30, 10):
        for row, cache in enumerate(caches):
            piece = engine.logits(ids[row : row + 1, at : at + 10], cache)
            np.testing.assert_array_equal(piece[0], engine.logits(ids)[row, at : at + 10])


def test_float16_takes_half_the_memory(model: Model) -> None:
    half, full = (open_engine(model, "native", kv=kv).new_cache(2, 64) for kv in ("f16", "f32"))
    # two layers, two sequences, keys and values padded to strips of 32 channels, two heads of 16
    assert half.nbytes == 2 * 2 * 2 * 64 * (16 + 32) * 2
    assert full.nbytes == 2 * half.nbytes


def test_weights_outlive_the_model_they_came_from(models: dict[str, Model]) -> None:
    tensors = {
        name: replace(t, data=t.data.copy()) for name, t in models["qwen2-tied"].tensors.items()
    }
    decoder = open_engine(Model(models["qwen2-tied"].arch, tensors), "native").decoder
    del tensors
    expected = open_engine(models["qwen2-tied"], "native").logits(ids_of(1, 9))
    np.testing.assert_array_equal(decoder.logits(ids_of(1, 9), None, True, False), expected)


def test_not_a_number_stays_visible(models: dict[str, Model]) -> None:
    tensors = dict(models["llama-tied"].tensors)
    name = "blk.0.attn_norm.weight"
    data = np.full(tensors[name].data.shape, 0xFF, np.uint8)
    tensors[name] = replace(tensors[name], data=data)
    engine = open_engine(Model(models["llama-tied"].arch, tensors), "native")
    assert np.isnan(engine.logits(ids_of(1, 5))).all()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [[1, 4096]],
            "token id 4096 is not one of the model's 4096; use the model's own tokenizer",
        ),
        ([[-1, 5]], "token id -1 is not one of"),
        ([1, 2], r"ids have the shape \(2\), but rows of at least one token are needed"),
        ([[[1]]], r"ids have the shape \(1, 1, 1\)"),
        ([[]], r"ids have the shape \(1, 0\)"),
    ],
)
def test_ids_that_are_none_are_refused(ids: Any, message: str, model: Model) -> None:
    with pytest.raises(EdgequantError, match=message):
        open_engine(model, "native").logits(np.array(ids))


def test_more_tokens_than_a_cache_holds_are_refused_and_leave_it_alone(model: Model) -> None:
    engine, ids = open_engine(model, "native"), ids_of(1, 9)
    cache = engine.new_cache(1, 8)
    engine.logits(ids[:, :6], cache)
    with pytest.raises(EdgequantError, match="9 tokens do not fit in 8; shorten the text or ask"):
        engine.logits(ids[:, 6:], cache)
    np.testing.assert_array_equal(engine.logits(ids[:, 6:8], cache), engine.logits(ids)[:, 6:8])


def test_a_cache_for_other_sequences_is_refused(model: Model) -> None:
    engine = open_engine(model, "native")
    with pytest.raises(EdgequantError, match="the cache holds 2 sequences, but 3 are given"):
        engine.logits(ids_of(3, 4), engine.new_cache(2, 8))


def test_a_cache_of_another_model_is_refused(models: dict[str, Model]) -> None:
    one, other = (open_engine(models[name], "native") for name in ("qwen2-tied", "none-shared"))
    with pytest.raises(
        EdgequantError, match="the cache was made for another model; call new_cache"
    ):
        one.logits(ids_of(1, 4), other.new_cache(1, 8))


def test_a_cache_for_nothing_is_refused(model: Model) -> None:
    engine = open_engine(model, "native")
    with pytest.raises(EdgequantError, match="a cache for 0 sequences of 8 tokens holds nothing"):
        engine.new_cache(0, 8)
    with pytest.raises(EdgequantError, match="a cache for 1 sequences of 0 tokens"):
        engine.new_cache(1, 0)


def test_an_unknown_kind_of_cache_is_refused(model: Model) -> None:
    with pytest.raises(EdgequantError, match="unknown type of KV cache 'q8'; known: f16, f32"):
        open_engine(model, "native", kv="q8")


def test_a_cache_too_large_for_the_memory_is_refused_before_it_is_made(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model, "native")
    # the weights stay in their file, and need memory beside the cache
    left = engine.mapped + 2**20  # type: ignore[attr-defined]
    monkeypatch.setattr(memory, "available", lambda: left)
    engine.new_cache(1, 64)
    with pytest.raises(EdgequantError, match="GiB of KV cache do not fit in the 0.00 GiB of mem"):
        engine.new_cache(1, 100_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "the model has no blk.2.attn_norm.weight; convert it again"),
        ({"ffn": 159}, "blk.0.ffn_gate.weight is 160 x 96, but the model needs 159 x 96"),
        ({"kv_heads": 4}, "6 query heads cannot share 4 key-value heads evenly"),
        ({"vocab": 0}, "a size of the model is 0; convert it again"),
        ({"head_dim": 12}, r"blk.0.attn_q.weight is 96 x 96, but the model needs 72 x 96"),
    ],
)
def test_weights_that_are_not_of_the_models_sizes_are_refused(
    change: dict[str, int], message: str, models: dict[str, Model]
) -> None:
    model = models["qwen2-untied"]
    wrong = Model(replace(model.arch, **change), model.tensors)  # type: ignore[arg-type]
    with pytest.raises(EdgequantError, match=message):
        open_engine(wrong, "native")


def test_a_norm_of_another_length_is_refused(models: dict[str, Model]) -> None:
    model = models["qwen2-untied"]
    tensors = dict(model.tensors) | {"output_norm.weight": model.tensors["blk.0.attn_k.bias"]}
    with pytest.raises(
        EdgequantError, match="output_norm.weight has 32 values, but the model needs"
    ):
        open_engine(Model(model.arch, tensors), "native")


@pytest.mark.parametrize("order", [range(95), range(1, 97)], ids=["too few", "one too many"])
def test_an_order_of_other_columns_is_refused(order: range, models: dict[str, Model]) -> None:
    model, name = models["qwen2-untied"], "blk.0.ffn_up.weight"
    wrong = replace(model.tensors[name], order=np.array(order, np.int32))
    with pytest.raises(EdgequantError, match="blk.0.ffn_up.order does not name the 96 columns"):
        open_engine(Model(model.arch, dict(model.tensors) | {name: wrong}), "native")
