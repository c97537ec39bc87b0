"""Our artifacts in a browser: transformers.js and wllama in Chromium, where that is installed."""

from pathlib import Path

import numpy as np
import pytest

import edgequant
from tests.interop.browser import PACKAGES, ask, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium here"),
    pytest.mark.skipif(
        not (PACKAGES / "@wllama").exists(), reason="tests/node/web.json is not installed"
    ),
]

TEXT = "The history of the city"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled model in several containers."""
    out = tmp_path_factory.mktemp("browser")
    edgequant.quantize(to=["gguf:Q4_K_M", "onnx:int4"], output=out, method="rtn", check=False)
    rules = ["token_embd=F32"]
    edgequant.quantize(to="onnx:int4", output=out / "f32", rules=rules, method="rtn", check=False)
    return out


def test_transformers_js_generates_where_the_embedding_is_not_packed(
    made: Path, tmp_path: Path
) -> None:
    name = "f32/tiny-qwen2.5-int4-onnx"
    found = ask("transformers.html", made, tmp_path, folder=name, text=TEXT)
    assert "error" not in found, found
    model = edgequant.load(made / name)
    assert model.tokenizer is not None
    prompt = model.tokenizer.encode(TEXT)
    ids = found["ids"]
    assert ids[: len(prompt)] == prompt
    assert len(ids) == len(prompt) + 16
    logits = model.logits(ids)[len(prompt) - 1 : -1]
    taken = logits[np.arange(16), ids[len(prompt) :]]
    assert (logits.max(axis=-1) - taken).max() <= 0.25


def test_its_onnxruntime_has_no_kernel_for_a_packed_embedding(made: Path, tmp_path: Path) -> None:
    # docs/engines.md says so, and how to do without: both can go when this fails
    found = ask("transformers.html", made, tmp_path, folder="tiny-qwen2.5-int4-onnx", text=TEXT)
    assert "Could not find an implementation for GatherBlockQuantized" in found["error"]


def test_wllama_generates(made: Path, tmp_path: Path) -> None:
    found = ask("wllama.html", made, tmp_path, file="tiny-qwen2.5-Q4_K_M.gguf", text=TEXT)
    assert "error" not in found, found
    model = edgequant.load(made / "tiny-qwen2.5-Q4_K_M.gguf")
    assert model.tokenizer is not None
    prompt, ids = (model.tokenizer.encode(text) for text in (TEXT, TEXT + found["text"]))
    assert ids[: len(prompt)] == prompt
    logits = model.logits(ids)[len(prompt) - 1 : -1]
    taken = logits[np.arange(len(logits)), ids[len(prompt) :]]
    assert len(taken) >= 12
    assert (logits.max(axis=-1) - taken).max() <= 0.25
