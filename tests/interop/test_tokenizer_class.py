"""What transformers' tokenizer classes make of the files of a tokenizer, and what is told of it."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

import edgequant
from quantize.report.torture import TORTURE
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.tokenizer import Tokenizer
from runtime.tokenizer_class import CLASSES, replaced_rules
from tests import tokenizers_made
from tests.interop.vocabulary import tokenize
from tests.one_file_models import edit, make

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

KINDS = ("gpt-2", "qwen2", "llama-bpe", "deepseek-r1-qwen", "smollm", "llama", "first", "gemma")
MODELS = ("llama", "qwen2", "qwen3", "smollm3", "gemma3_text")
NAMES = [None, "TokenizersBackend", "PreTrainedTokenizerFast", "OfMyOwn", *CLASSES]
TEXTS = (*TORTURE, *(f"a{t}b {t}" for rules in CLASSES.values() for t in rules.special.values()))


def files(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Write a tokenizer and a config.json; what config.json says."""
    kind = draw.choice(KINDS)
    backend, special = tokenizers_made.with_specials(kind)
    unknown = "<unk>" in special.values()  # some classes fail without
    config = {"model_type": draw.choice(MODELS[: None if unknown else -1]), "vocab_size": 700}
    name = draw.choice([n for n in NAMES if n != "GemmaTokenizer" or unknown])
    if kind in ("llama", "first") and draw.random() < 0.5:
        name = draw.choice(["LlamaTokenizer", "CodeLlamaTokenizer"])
    elif name == "CodeLlamaTokenizer":  # needs an <unk>
        name = None
    settings: dict[str, Any] = draw.choice([special, {}, special | {"bos_token": None}])
    space = [True, False] + [None] * (name not in ("GPT2Tokenizer", "GPTNeoXTokenizer"))
    for key, values in {"legacy": [True, False, None], "add_prefix_space": space}.items():
        if draw.random() < 0.5:
            settings = settings | {key: draw.choice(values)}
    if draw.random() < 0.3:
        first = next(iter(special.values()))
        tokenizers_made.put_around(backend, *draw.choice([([first], []), ([], [first])]))
    tokenizers_made.save(backend, folder, **settings)
    if name is not None:
        known = name != "OfMyOwn"  # transformers fails on such a name in config.json
        file = "config.json" if known and draw.random() < 0.3 else "tokenizer_config.json"
        name += draw.choice(["", "Fast"]) if name in CLASSES else ""
        if file == "config.json":
            config["tokenizer_class"] = name
        else:
            edit(folder, file, tokenizer_class=name)
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_rules_that_transformers_replaces_are_told(seed: int, tmp_path: Path) -> None:
    draw, seen = random.Random(seed), set()
    for case in range(60):
        config = files(tmp_path, draw)
        said = (case, config, (tmp_path / "tokenizer_config.json").read_text())
        ours = Tokenizer.from_folder(tmp_path)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        same = all(theirs.encode(text) == full(ours, text) for text in TEXTS)
        told = [note for note in replaced_rules(tmp_path, config, ours) if "other rules" in note]
        assert len(told) == (not same), said
        assert same or type(theirs).__name__ in told[0], said
        seen.add(same)
    assert seen == {True, False}


def full(found: Tokenizer, text: str) -> list[int]:
    """Ids of a text and of what stands around it."""
    return [*found.prefix, *found.encode(text), *found.suffix]


AROUND: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["<|endoftext|>"], []),
    (["<|im_start|>"], ["<|im_end|>"]),
    ([], ["<|im_end|>"]),
    (["<|endoftext|>", "<|im_start|>"], []),
    ([], ["<|im_start|>"]),
]
FULL = ("a", "", " it's <|im_end|>1234")


@pytest.mark.slow
@pytest.mark.parametrize("bos", [None, "<|endoftext|>"])
@pytest.mark.parametrize(("before", "after"), AROUND)
def test_what_stands_around_a_text_is_what_transformers_puts_there(
    before: list[str], after: list[str], bos: str | None, tmp_path: Path
) -> None:
    """In every model type and class, whatever `add_bos_token` says; and in llama.cpp."""
    backend, special = tokenizers_made.with_specials("qwen2")
    tokenizers_made.put_around(backend, before, after)
    end = backend.token_to_id("<|im_end|>")
    sizes = {"vocab_size": backend.get_vocab_size(), "head_dim": 8, "eos_token_id": end}
    folder = make(tmp_path / "model", **sizes | {"model_type": "llama"})
    (folder / "generation_config.json").unlink(missing_ok=True)
    said = draw_settings(len(before), len(after))
    for model_type, name, adds in said:
        named = {"tokenizer_class": name} if name else {}
        keys = {"add_bos_token": adds, "add_eos_token": adds, "bos_token": bos}
        tokenizers_made.save(backend, folder, **special | keys | named)
        edit(folder, "config.json", model_type=model_type)
        ours = Tokenizer.from_folder(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        expected = [theirs(text).input_ids for text in FULL]
        assert [full(ours, text) for text in FULL] == expected
    edit(folder, "config.json", model_type="llama")
    reference = open_engine(folder, "transformers").tokenizer
    assert reference is not None
    assert (reference.prefix, reference.suffix) == (ours.prefix, ours.suffix)
    settings: dict[str, Any] = {"output": tmp_path / "out", "method": "rtn", "check": False}
    if len(before) > 1 or after == ["<|im_start|>"] or (bos and before == ["<|im_start|>"]):
        with pytest.raises(EdgequantError, match="each text, GGUF nothing but its"):
            edgequant.quantize(folder, "gguf:F32", **settings)
        return
    made = edgequant.quantize(folder, "gguf:F32", **settings).artifacts[0]
    engine = open_engine(made.path, "llamacpp")
    assert [tokenize(engine, text, add_special=True) for text in FULL] == expected


def draw_settings(*seed: int) -> list[tuple[str, str | None, bool]]:
    """Some model types, classes and values of `add_bos_token`."""
    draw = random.Random(str(seed))
    heed = {name for name, rules in CLASSES.items() if rules.begins is None}
    heed.remove("GemmaTokenizer")  # needs an <unk>, as its models do
    names = [name for name in NAMES if name in heed or name not in CLASSES]
    return [(draw.choice(MODELS[:-1]), draw.choice(names), draw.random() < 0.5) for _ in range(6)]
