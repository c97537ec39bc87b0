"""Windows in GGUF: llama.cpp sees past those of these families, so a file's context ends there."""

from pathlib import Path

import numpy as np
import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.archs import FAMILIES
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from tests.small_models import kl
from tests.windowed import WINDOWED, checkpoint_of

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
pytestmark = [pytest.mark.numeric, pytest.mark.slow]

CLOSE = 1e-4
"""KL in nats a token: llama.cpp keeps keys and values in float16."""
INSIDE = {"sliding_window": 64}
"""A window with room for a text to be judged on."""


def checkpoint(name: str, folder: Path) -> Checkpoint:
    return open_checkpoint(checkpoint_of(name, folder, **INSIDE))


def gguf(model: Checkpoint, path: Path) -> Path:
    CONTAINERS["gguf"].write(path, model.arch, model.tensors.values(), model.folder, {})
    return path


def ids_of(tokens: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (1, tokens))


@pytest.mark.parametrize("name", WINDOWED)
def test_a_gguf_is_the_model_as_far_as_its_context_goes(name: str, tmp_path: Path) -> None:
    model = checkpoint(name, tmp_path / "model")
    file, ids = gguf(model, tmp_path / "x.gguf"), ids_of(64)
    assert open_gguf(file).arch.context == 64
    original = open_engine(model.model(), "torch").logits(ids)
    assert kl(original, open_engine(file, "llamacpp").logits(ids)) < CLOSE
    assert kl(original, open_engine(open_gguf(file), "native", kv="f32").logits(ids)) < CLOSE


@pytest.mark.parametrize("name", WINDOWED)
def test_a_foreign_window_is_left_out_as_in_llamacpp(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint(name, tmp_path / "model")
    family = FAMILIES[model.arch.family]
    own = family.gguf_keys(model.arch)
    start = family.architecture
    foreign = {f"{start}.attention.sliding_window": 64, f"{start}.context_length": 1024}
    monkeypatch.setattr(type(family), "gguf_keys", lambda self, arch: own | foreign)
    file, ids = gguf(model, tmp_path / "x.gguf"), ids_of(400)
    assert not open_gguf(file).arch.windowed
    theirs = open_engine(file, "llamacpp").logits(ids)
    ours = open_engine(open_gguf(file), "native", kv="f32").logits(ids)
    assert kl(theirs, ours) < CLOSE
    assert kl(open_engine(model.model(), "torch").logits(ids), theirs) > 2 * kl(theirs, ours)
