"""Sliding windows: every engine against transformers, on texts far longer than the window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from runtime.engine import Engine, open_engine
from tests.small_models import rounded
from tests.windowed import WINDOWED, checkpoint_of

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)
pytestmark = [pytest.mark.numeric, pytest.mark.slow]

TOKENS = 700
CLOSE = 1e-4
"""Largest error of a logit, relative to the largest logit."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("windowed")
    return {name: checkpoint_of(name, root / name) for name in WINDOWED}


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, np.ndarray]:
    found = {}
    for name, folder in folders.items():
        oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            found[name] = oracle(torch.from_numpy(ids_of())).logits.numpy()
    return found


def ids_of() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (2, TOKENS))


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def engine_of(backend: str, folder: Path, place: Path, request: Any) -> Engine:
    checkpoint = open_checkpoint(folder)
    if backend == "native":
        request.getfixturevalue("exact_products")
        return open_engine(checkpoint.model(), "native", kv="f32")
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
        tensors = rounded(checkpoint, "F32")
        CONTAINERS["onnx"].write(place / "x", checkpoint.arch, tensors, folder, {})
        return open_engine(place / "x", "onnxruntime", threads=1, accuracy_level=0)
    return open_engine(checkpoint.model(), backend)


@pytest.mark.parametrize("name", WINDOWED)
def test_the_layers_with_a_window_are_those_of_transformers(
    name: str, folders: dict[str, Path]
) -> None:
    arch = open_checkpoint(folders[name]).arch
    windows = [arch.layer(index).attention.window for index in range(arch.layers)]
    assert windows == [8 if index in WINDOWED[name][1] else None for index in range(4)]


@pytest.mark.parametrize("backend", ["numpy", "torch", "native", "onnxruntime"])
@pytest.mark.parametrize("name", WINDOWED)
def test_logits_equal_transformers_past_the_window(
    name: str,
    backend: str,
    folders: dict[str, Path],
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    engine, ids = engine_of(backend, folders[name], tmp_path, request), ids_of()
    assert error(engine.logits(ids), expected[name]) < CLOSE
    for row in range(2):  # onnxruntime takes one sequence where a text comes in pieces
        cache = engine.new_cache(1, TOKENS)
        pieces = np.split(ids[row : row + 1], [200, 205, 690, *range(691, TOKENS)], axis=1)
        steps = [engine.logits(piece, cache) for piece in pieces]
        assert error(np.concatenate(steps, 1), expected[name][row : row + 1]) < CLOSE


@pytest.mark.parametrize("name", WINDOWED)
def test_the_window_shows(
    name: str, folders: dict[str, Path], expected: dict[str, np.ndarray]
) -> None:
    checkpoint = open_checkpoint(folders[name])
    full = {"use_sliding_window": False, "layer_types": None, "sliding_window": None}
    arch = checkpoint.family.arch(checkpoint.config | full)
    model = checkpoint.model()
    plain = open_engine(type(model)(arch, model.tensors), "torch").logits(ids_of())
    assert error(plain[:, :8], expected[name][:, :8]) < CLOSE
    assert error(plain, expected[name]) > 10 * CLOSE


@pytest.mark.parametrize("name", ["qwen2", "mistral, layer_types", "smollm3"])
def test_genai_sees_the_window_too(
    name: str, folders: dict[str, Path], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    checkpoint, ids = open_checkpoint(folders[name]), ids_of()[0, :60]
    facts = (checkpoint.arch, rounded(checkpoint, "F32"), folders[name], {})
    CONTAINERS["onnx"].write(tmp_path / "x", *facts, accuracy_level=0)
    generator = og.Generator(model := og.Model(str(tmp_path / "x")), og.GeneratorParams(model))
    for piece in (ids[:40], *ids[40:, None]):  # a prompt, then one token at a time
        generator.append_tokens(piece)
    found = np.asarray(generator.get_logits()).reshape(-1)
    assert error(found, expected[name][0, 59]) < CLOSE
