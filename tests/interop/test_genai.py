"""onnxruntime-genai loads the folders we write and generates what our own engine generates."""

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.report.torture import TORTURE
from runtime.engine import open_engine
from runtime.generate import generate
from runtime.tokenizer import Tokenizer
from tests.conftest import CONFIGS
from tests.small_models import assert_near, kl, rounded

og = pytest.importorskip(
    "onnxruntime_genai",
    reason="onnxruntime-genai is not installed: pip install 'edgequant[interop]'",
)

PROMPTS = ["The history of the town", "def main(path):", "Les enfants jouent dans le jardin"]
NEW_TOKENS = 32

Folder = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def folder(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """folder(model, kind): an ONNX folder of the bundled or a random model, written once.

    It computes in float32: with int8 activations a last bit turns codes, and they turn tokens.
    """
    root = tmp_path_factory.mktemp("genai")

    def written(name: str, kind: str) -> Path:
        path = root / f"{name}-{kind}"
        if not path.exists():
            checkpoint = open_checkpoint(random_models.get(name))
            tensors = rounded(checkpoint, kind)
            facts = (checkpoint.arch, tensors, checkpoint.folder, {})
            CONTAINERS["onnx"].write(path, *facts, accuracy_level=0)
        return path

    return written


@pytest.fixture
def copy(folder: Folder, tmp_path: Path) -> Path:
    """A folder whose small files may be changed."""
    return Path(shutil.copytree(folder("bundled", "INT4_32"), tmp_path / "copy"))


def greedy(model: Any, prompt: list[int], count: int, ends: Iterable[int] = ()) -> list[int]:
    """New tokens with the folder's own search settings, up to the first of `ends`."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + count)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    new = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
    return new[:-1] if new and new[-1] in ends else new  # older versions give the end token out


@pytest.mark.parametrize("kind", ["F32", "INT4_32", "INT8_32"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_those_of_our_engine(folder: Folder, prompt: str, kind: str) -> None:
    path = folder("bundled", kind)
    engine = open_engine(path, "onnxruntime", threads=2)
    ids = engine.tokenizer.encode(prompt)
    ends = engine.tokenizer.eos
    found = greedy(og.Model(str(path)), ids, NEW_TOKENS, ends)
    assert len(found) and found == list(generate(engine, ids, NEW_TOKENS, stop=ends))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_every_family_and_shape_are_those_of_our_engine(folder: Folder, name) -> None:
    path = folder(name, "INT4_32")
    ids = np.random.default_rng(0).integers(0, 4096, 24)
    generator = og.Generator(model := og.Model(str(path)), og.GeneratorParams(model))
    engine = open_engine(path, "onnxruntime")
    cache = engine.new_cache(1, len(ids))
    for piece in (ids[:20], *ids[20:, None]):  # a prompt, then one token at a time
        generator.append_tokens(piece)
        expected = engine.logits(piece[None], cache, last=True)
        assert_near(generator.get_logits(), expected)


def test_int8_activations_cost_no_more_than_in_our_engine(tiny: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x"
    CONTAINERS["onnx"].write(path, tiny.arch, rounded(tiny, "INT4_32"), tiny.folder, {})
    ids = np.array([tiny.tokenizer.encode(" ".join(PROMPTS))])
    exact, ours = (
        open_engine(path, "onnxruntime", accuracy_level=level).logits(ids, last=True)
        for level in (0, 4)
    )
    generator = og.Generator(model := og.Model(str(path)), og.GeneratorParams(model))
    generator.append_tokens(ids[0])
    for found in (ours, generator.get_logits()):
        assert 0 < kl(exact, found) < 1e-3


@pytest.mark.parametrize("text", TORTURE)
def test_texts_become_the_same_tokens(folder: Folder, text: str) -> None:
    path = folder("bundled", "INT4_32")
    theirs = og.Tokenizer(og.Model(str(path)))
    # genai skips the tokenizer's NFC step: its callers must compose characters themselves
    ids = [int(token) for token in theirs.encode(unicodedata.normalize("NFC", text))]
    assert ids == Tokenizer.from_folder(path).encode(text)


@pytest.mark.parametrize("separate", [False, True])
def test_chat_template_renders_as_ours(copy: Path, separate: bool) -> None:
    if separate:  # newer checkpoints keep the template in a file of its own
        settings = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "chat_template.jinja").write_text(settings.pop("chat_template"))
        (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>"}]
    theirs = og.Tokenizer(og.Model(str(copy)))
    found = theirs.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
    assert found == Tokenizer.from_folder(copy).render(messages, generate=True)


def test_every_end_token_ends_a_text(copy: Path) -> None:
    tokenizer = Tokenizer.from_folder(copy)
    prompt = tokenizer.encode(PROMPTS[0])
    free = greedy(og.Model(str(copy)), prompt, 8)
    config = json.loads((copy / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == list(tokenizer.eos)
    assert list(og.Tokenizer(og.Model(str(copy))).eos_token_ids) == list(tokenizer.eos)
    config["model"]["eos_token_id"].append(free[3])
    (copy / "genai_config.json").write_text(json.dumps(config))
    assert greedy(og.Model(str(copy)), prompt, 8, [free[3]]) == free[: free.index(free[3])]


def test_a_whole_batch_generates_what_its_rows_generate(folder: Folder) -> None:
    model = og.Model(str(folder("bundled", "INT4_32")))
    rows = [list(range(300, 310)), list(range(500, 510))]
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=18, batch_size=2)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(rows, np.int32))
    for _ in range(8):
        generator.generate_next_token()
    for index, row in enumerate(rows):
        assert list(generator.get_sequence(index)[10:]) == greedy(model, row, 8)


def test_sampling_settings_of_the_source_are_accepted(copy: Path) -> None:
    config = json.loads((copy / "genai_config.json").read_text())
    config["search"] |= {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    (copy / "genai_config.json").write_text(json.dumps(config))
    prompt = Tokenizer.from_folder(copy).encode(PROMPTS[0])
    assert len(greedy(og.Model(str(copy)), prompt, 8)) in range(1, 9)
