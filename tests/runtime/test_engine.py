"""Engines: found by name, and the same answers whatever computes them."""

from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime import backends
from runtime.engine import backend_names, open_engine, reads_files
from runtime.errors import EdgequantError
from tests.conftest import CONFIGS
from tests.small_models import assert_near

pytestmark = pytest.mark.numeric


def test_every_file_of_the_folder_is_a_backend_with_an_open() -> None:
    files = {path.stem for path in Path(str(backends.__file__)).parent.glob("*.py")}
    assert set(backend_names()) == files - {"__init__"}
    assert {"numpy", "torch", "onnxruntime"} <= set(backend_names())


def test_an_unknown_backend_is_refused_with_the_known_ones(tiny: Checkpoint) -> None:
    with pytest.raises(EdgequantError, match="unknown backend 'abacus'; known: .*numpy.*torch"):
        open_engine(tiny.model(), "abacus")


def test_a_backend_says_whether_it_is_given_a_path() -> None:
    assert reads_files("onnxruntime")
    assert reads_files("llamacpp")
    assert not reads_files("numpy")
    assert not reads_files("torch")
    with pytest.raises(EdgequantError, match="unknown backend 'abacus'; known: "):
        reads_files("abacus")


@pytest.mark.parametrize("name", CONFIGS)
def test_numpy_and_torch_agree(name: str, random_models: dict[str, Path]) -> None:
    model = open_checkpoint(random_models[name]).model()
    ids = np.random.default_rng(0).integers(0, 4096, (2, 60))
    expected = open_engine(model, "numpy").logits(ids)
    assert_near(open_engine(model, "torch").logits(ids), expected)


def test_an_engine_carries_sizes_and_tokenizer(tiny: Checkpoint) -> None:
    engine = open_engine(tiny.model(), "numpy")
    assert engine.arch is tiny.arch
    assert engine.tokenizer is tiny.tokenizer


def test_options_reach_the_backend(tiny: Checkpoint) -> None:
    engine = open_engine(tiny.model(), "torch", device="cpu")
    assert str(engine.ops.device) == "cpu"
    with pytest.raises(TypeError, match="no option 'device'; it has none"):
        open_engine(tiny.model(), "numpy", device="cpu")


def test_a_purpose_gets_the_options_that_the_backend_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = "runtime.backends.numpy"
    monkeypatch.setattr(f"{backend}.open", lambda model, a=0, b=0: {"a": a, "b": b})
    assert open_engine(None, "numpy", purpose="generation") == {"a": 0, "b": 0}
    monkeypatch.setattr(f"{backend}.PURPOSES", {"generation": {"a": 1, "b": 1}}, raising=False)
    assert open_engine(None, "numpy", purpose="generation", b=2) == {"a": 1, "b": 2}
    assert open_engine(None, "numpy", b=2, purpose="judging") == {"a": 0, "b": 2}
