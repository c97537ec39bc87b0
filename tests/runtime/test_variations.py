"""Every variation of a decoder layer: each engine computes what the numpy definition computes."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import CONTAINERS
from runtime.engine import Engine, open_engine
from runtime.errors import EdgequantError
from tests.variations import COMPUTED, folder_of, model_of, registered

pytestmark = pytest.mark.numeric

CLOSE = 1e-5
"""Largest error of a logit, relative to the largest logit."""


@pytest.fixture(scope="module", autouse=True)
def family() -> Iterator[None]:
    with registered():
        yield


def ids_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4096, shape)


@cache
def expected(name: str, *shape: int) -> np.ndarray:
    return open_engine(model_of(name), "numpy").logits(ids_of(*shape))


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def engine_of(backend: str, name: str, folder: Path, request: pytest.FixtureRequest) -> Engine:
    """A variation on one backend, computed as exactly as it can."""
    model = model_of(name)
    if backend == "native":
        request.getfixturevalue("exact_products")
        return open_engine(model, "native", kv="f32")
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
        source = folder_of(name, folder / "source")
        CONTAINERS["onnx"].write(folder / "x", model.arch, model.tensors.values(), source, {})
        return open_engine(folder / "x", "onnxruntime", threads=1, accuracy_level=0)
    return open_engine(model, backend)


@pytest.mark.parametrize("name", [name for name in COMPUTED if name != "usual"])
def test_a_variation_shows(name: str) -> None:
    wanted = expected(name, 2, 41 if name != "long window" else 300)
    assert error(wanted, expected("usual", *wanted.shape[:2])) > 100 * CLOSE


@pytest.mark.parametrize("backend", ["torch", "native", "onnxruntime"])
@pytest.mark.parametrize("name", [*COMPUTED, "soft cap", "experts", "shared expert"])
def test_logits_are_those_of_the_definition(
    name: str, backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in {"native": REFUSED_BY_NATIVE, "onnxruntime": REFUSED_BY_ONNX}.get(backend, ()):
        return  # see below
    engine, ids = engine_of(backend, name, tmp_path, request), ids_of(2, 41)
    wanted = expected(name, 2, 41)
    assert error(engine.logits(ids), wanted) < CLOSE
    assert error(engine.logits(ids, last=True), wanted[:, -1:]) < CLOSE
    cache = engine.new_cache(2, 41)
    steps = [engine.logits(ids[:, :30], cache)]
    steps += [engine.logits(ids[:, at : at + 1], cache, last=True) for at in range(30, 41)]
    assert error(np.concatenate(steps, 1), wanted) < CLOSE


@pytest.mark.parametrize("backend", ["numpy", "torch", "native", "onnxruntime"])
@pytest.mark.parametrize("name", ["long window", "all of it"])
def test_a_window_moves_along_a_long_text(
    name: str, backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine, ids = engine_of(backend, name, tmp_path, request), ids_of(1, 1300)
    wanted = expected(name, 1, 1300)
    assert error(engine.logits(ids), wanted) < CLOSE
    cache = engine.new_cache(1, 1300)
    for stop in (700, 1290, 1298, 1299, 1300):  # one token's keys go in segments of 512
        found = engine.logits(ids[:, cache.length : stop], cache, last=True)
        assert error(found, wanted[:, stop - 1 : stop]) < CLOSE


@pytest.mark.parametrize("window", ["long window", "window"])
def test_native_steps_with_a_window_equal_the_whole_to_the_last_bit(
    window: str, exact_products: None
) -> None:
    engine, ids = open_engine(model_of(window), "native"), ids_of(2, 330)
    cache = engine.new_cache(2, 330)
    pieces = np.split(ids, [1, 150, 329], axis=1)
    steps = [engine.logits(piece, cache) for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(steps, 1), engine.logits(ids))


def test_a_window_keeps_no_more_than_it_sees_and_a_step_computes() -> None:
    engine = open_engine(model_of("window"), "native", kv="f32")  # two layers see 5 tokens
    step = -(-(5 - 1 + engine.decoder.rows_at_once) // 128) * 128
    cell = 2 * 2 * 32 * 4  # a key and a value, two heads of 32 channels, float32
    assert engine.new_cache(3, 128).nbytes == 3 * 3 * 128 * cell
    assert engine.new_cache(3, 6400).nbytes == 3 * (2 * step + 6400) * cell


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_window_keeps_what_the_next_token_sees(backend: str) -> None:
    cache = open_engine(model_of("window"), backend).new_cache(3, 64)
    assert [keys.shape[1] for keys in cache.keys] == [4, 4, 64]
    assert [values.shape[1] for values in cache.values] == [4, 4, 64]


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_window_of_one_token_sees_itself(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine, ids = engine_of(backend, "window of one", tmp_path, request), ids_of(2, 20)
    whole, cache = expected("window of one", 2, 20), engine.new_cache(2, 20)
    pieces = [engine.logits(piece, cache) for piece in np.split(ids, [3, 4, 15], axis=1)]
    assert error(np.concatenate(pieces, 1), whole) < CLOSE


REFUSED_BY_NATIVE = {
    "soft cap": "blk.0 has a soft cap on attention scores, which the native backend does not",
    "other heads": "blk.1.attn has 6 key-value heads of 32 channels and a layer before it 2 of 32",
    "rope of too many channels": "34 of a head's 32 channels cannot be turned by 17 frequencies",
    "no attention": "blk.2.attn: the layer has 0 attentions, and the native backend needs one",
}


@pytest.mark.parametrize("name", REFUSED_BY_NATIVE)
def test_what_native_does_not_compute_is_refused(name: str) -> None:
    pytest.importorskip("runtime._native")
    with pytest.raises(EdgequantError, match=REFUSED_BY_NATIVE[name]):
        open_engine(model_of(name), "native")


REFUSED_BY_ONNX = {
    "other heads": "blk.1 has 6 key-value heads of 32 channels and the model 2 of 32, but onnx",
    "rope of few channels": "the heads have 8 channels to rotate.*multiples of 16; write a GGUF",
}


@pytest.mark.parametrize("name", REFUSED_BY_ONNX)
def test_what_onnxruntime_cannot_run_is_refused(name: str, tmp_path: Path) -> None:
    model, tensors = model_of(name), iter(())
    with pytest.raises(EdgequantError, match=REFUSED_BY_ONNX[name]):
        CONTAINERS["onnx"].write(tmp_path / "x", model.arch, tensors, tmp_path, {})
    assert not (tmp_path / "x").exists()


def test_each_rope_has_tables_of_its_own_in_an_onnx_folder(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    model, source = model_of("several ropes"), folder_of("several ropes", tmp_path / "source")
    CONTAINERS["onnx"].write(tmp_path / "x", model.arch, model.tensors.values(), source, {})
    graph = onnx.load(str(tmp_path / "x" / "model.onnx"), load_external_data=False).graph
    tables = [proto.name for proto in graph.initializer if proto.name.startswith("rope")]
    assert tables == ["rope.cos", "rope.sin", "rope.1.cos", "rope.1.sin"]
    read = [node.input[7] for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert read == ["rope.cos", "rope.1.cos", "rope.1.cos"]
