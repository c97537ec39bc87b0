"""What lies in a checkpoint's folder, rebuilt from a GGUF: the same ids, tokens and settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.gguf_general import general
from export.gguf_vocab import vocabulary
from quantize.checkpoint import bundled, open_checkpoint
from quantize.report.torture import TORTURE
from runtime import generation_config
from runtime.adapter_files import SmallFiles
from runtime.archs import FAMILIES
from runtime.gguf_small_files import small_files, tokenizer_notes
from runtime.pooling import pooling
from runtime.tokenizer import Tokenizer
from tests.pooled import add_pooling
from tests.tokenizers_made import KINDS, made, put_around, save, sentencepiece

VOCAB = 800
CONFIG = {"vocab_size": VOCAB, "max_position_embeddings": 64, "model_type": "llama"}


def as_read(keys: dict[str, Any]) -> dict[str, Any]:
    """Metadata as a reader gives it: arrays of numbers as numpy arrays."""
    return {
        key: np.array(value) if isinstance(value, list) and not isinstance(value[0], str) else value
        for key, value in keys.items()
    }


def rebuilt(metadata: dict[str, Any], vocab: int = VOCAB) -> SmallFiles:
    tokenizer = Tokenizer.from_gguf(metadata, vocab)
    assert tokenizer is not None
    return small_files(CONFIG | {"vocab_size": vocab}, metadata, tokenizer)


def assert_alike(found: Tokenizer, meant: Tokenizer) -> None:
    for text in TORTURE:
        ids = meant.encode(text)
        assert found.encode(text) == ids, ascii(text)
        assert found.decode(ids) == meant.decode(ids)
    assert found.special == meant.special
    assert (found.bos, found.prefix, found.suffix) == (meant.bos, meant.prefix, meant.suffix)
    assert found.eos[: len(meant.eos)] == meant.eos
    assert found.chat_template == meant.chat_template
    assert found.more_templates == meant.more_templates


@pytest.mark.parametrize("kind", [*KINDS, "llama", "gemma"])
def test_a_tokenizer_comes_through_a_gguf_as_it_was(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    files = rebuilt(as_read(vocabulary(folder, VOCAB)))
    found, meant = (Tokenizer.from_folder(path) for path in (files.path, folder))
    assert_alike(found, meant)
    # rows of the embedding without a token are no tokens again
    assert found.backend.get_vocab() == meant.backend.get_vocab()


@pytest.mark.parametrize("kind", ["llama-bpe", "qwen2", "llama"])
def test_what_is_put_around_a_text_comes_through(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    backend = Tokenizer.from_folder(folder).backend
    end = Tokenizer.from_folder(folder).special["eos_token"]
    start = str(backend.id_to_token(7))
    put_around(backend, [start], [end])
    save(backend, folder, bos_token=start, eos_token=end)
    files = rebuilt(as_read(vocabulary(folder, VOCAB)))
    found, meant = (Tokenizer.from_folder(path) for path in (files.path, folder))
    assert meant.prefix
    assert meant.suffix
    assert_alike(found, meant)
    texts = [tokenizer.backend.encode("a b").ids for tokenizer in (found, meant)]
    assert texts[0] == texts[1]


def test_a_word_that_llamacpp_takes_for_an_end_is_no_special_token(tmp_path: Path) -> None:
    # a file that names no end: llama.cpp then takes the token 11, a word of many texts
    metadata = as_read(vocabulary(made("gpt-2", tmp_path), VOCAB))
    del metadata["tokenizer.ggml.eos_token_id"]
    metadata.pop("edgequant.eos_token_ids", None)
    meant = Tokenizer.from_gguf(metadata, VOCAB)
    assert meant is not None
    assert meant.eos[0] == 11
    files = rebuilt(metadata)
    found = Tokenizer.from_folder(files.path)
    assert found.eos[0] == 11
    assert "eos_token" not in found.special
    for text in TORTURE:
        assert found.encode(text) == meant.encode(text)


def test_templates_sampling_pooling_and_licence_come_through(tmp_path: Path) -> None:
    folder = made("llama-bpe", tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}\n", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T", encoding="utf-8")
    asked = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    add_pooling(folder, "lasttoken")
    arch = open_checkpoint(bundled()).arch
    architecture = {"general.architecture": FAMILIES[arch.family].architecture}
    metadata = as_read(architecture | general(arch, folder, {}) | vocabulary(folder, VOCAB))
    files = rebuilt(metadata)
    found, meant = (Tokenizer.from_folder(path) for path in (files.path, folder))
    assert_alike(found, meant)
    assert found.more_templates == {"tool_use": "T"}
    settings = [generation_config.sampling(path) for path in (files.path, folder)]
    assert settings[0] == settings[1]
    assert pooling(files.path) == "last"
    assert general(arch, files.path, {})["general.license"] == "apache-2.0"


def test_a_template_whose_name_leads_elsewhere_is_told_and_left_out(tmp_path: Path) -> None:
    metadata = as_read(vocabulary(made("llama-bpe", tmp_path), VOCAB))
    metadata["tokenizer.chat_template.../../x"] = "T"
    files = rebuilt(metadata)
    assert not list(files.path.rglob("*x.jinja"))
    assert tokenizer_notes(metadata) == [
        "the chat template '../../x' is left out: its name is no name of a file"
    ]


@pytest.mark.parametrize("kind", ["qwen2", "llama-bpe", "llama"])
def test_letters_that_are_composed_are_told(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path) if kind != "llama" else save(sentencepiece(), tmp_path)
    told = tokenizer_notes(as_read(vocabulary(folder, VOCAB)))
    composed = "a GGUF does not say that a tokenizer composes letters with their marks (NFC)"
    assert [note.startswith(composed) for note in told] == [True] * (kind == "qwen2")
