"""Tokenizers rebuilt from GGUF metadata give the original's ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.gguf_vocab import vocabulary
from quantize.report.torture import TORTURE
from runtime.errors import EdgequantError
from runtime.gguf_special import ENDS
from runtime.pre_tokenizers import ALIASES, PRE_TOKENIZERS
from runtime.tokenizer import Tokenizer
from tests.tokenizers_made import KINDS, made, save, sentencepiece

VOCAB = 800


def metadata_of(folder: Path) -> dict[str, Any]:
    """What the writer stores, as the reader gives it: arrays of numbers as numpy arrays."""
    found = vocabulary(folder, VOCAB)
    return {
        key: np.array(value) if isinstance(value, list) and not isinstance(value[0], str) else value
        for key, value in found.items()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: made(kind, root / kind) for kind in (*KINDS, "llama", "gemma")}


@pytest.fixture
def metadata(folders: dict[str, Path]) -> dict[str, Any]:
    return metadata_of(folders["llama-bpe"])


def test_every_known_rule_has_a_tokenizer_here() -> None:
    assert set(KINDS) == set(PRE_TOKENIZERS)
    assert set(ALIASES.values()) <= set(PRE_TOKENIZERS)


@pytest.mark.parametrize("kind", [*KINDS, "llama", "gemma"])
def test_ids_and_texts_equal_the_original_s(folders: dict[str, Path], kind: str) -> None:
    original = Tokenizer.from_folder(folders[kind])
    rebuilt = Tokenizer.from_gguf(metadata_of(folders[kind]), VOCAB)
    assert rebuilt is not None
    for text in TORTURE:
        ids = original.encode(text)
        assert rebuilt.encode(text) == ids, ascii(text)
        assert rebuilt.decode(ids) == original.decode(ids)
    assert rebuilt.bos == original.bos
    known = [index for text, index in rebuilt.backend.get_vocab().items() if text in ENDS]
    assert rebuilt.eos[: len(original.eos)] == original.eos
    assert set(rebuilt.eos) == {*original.eos, *known}
    assert rebuilt.special == original.special


@pytest.mark.parametrize("prefix", ["prepend", "none"])
def test_sentencepiece_keeps_its_rule_for_the_first_space(tmp_path: Path, prefix: str) -> None:
    folder = save(sentencepiece(prefix), tmp_path)
    original, rebuilt = Tokenizer.from_folder(folder), Tokenizer.from_gguf(metadata_of(folder), 800)
    assert rebuilt is not None
    for text in TORTURE:
        assert rebuilt.encode(text) == original.encode(text), ascii(text)
        assert rebuilt.decode(original.encode(text)) == original.decode(original.encode(text))


def test_streamed_sentencepiece_text_keeps_its_spaces(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_folder(folders["llama"])
    for text in ("two words", "h\u00e9 \u65e5\u672c \U0001f600 end"):
        ids = tokenizer.encode(text)
        assert "".join(tokenizer.stream(ids)) == tokenizer.decode(ids) == text


def test_every_alias_is_read(metadata: dict[str, Any]) -> None:
    for alias in ALIASES:
        assert Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": alias}, VOCAB)


def test_a_file_without_a_tokenizer_has_none() -> None:
    assert Tokenizer.from_gguf({}, VOCAB) is None
    assert Tokenizer.from_gguf({"tokenizer.ggml.model": "none"}, VOCAB) is None


@pytest.mark.parametrize(
    ("kind", "expected"), [("llama-bpe", True), ("gpt-2", False), ("llama", True)]
)
def test_whether_bos_is_added_follows_the_kind_unless_it_is_said(
    folders: dict[str, Path], kind: str, expected: bool
) -> None:
    found = metadata_of(folders[kind])
    for said in (True, False):
        told = Tokenizer.from_gguf(found | {"tokenizer.ggml.add_bos_token": said}, VOCAB)
        assert told is not None
        assert (told.prefix == (told.bos,)) is said
    del found["tokenizer.ggml.add_bos_token"]
    untold = Tokenizer.from_gguf(found, VOCAB)
    assert untold is not None
    assert bool(untold.prefix) is expected


def test_an_id_of_minus_one_means_none(metadata: dict[str, Any]) -> None:
    for none in (-1, 2**32 - 1):
        found = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.bos_token_id": none}, VOCAB)
        assert found is not None
        assert found.bos is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "bert"}, "a tokenizer of kind 'bert'; supported: 'gpt2' and 'llama'"),
    ({"pre": "gemma4"}, "pre-tokenizer is 'gemma4', whose rule is not known here; known: qwen2"),
    ({"pre": "newest"}, "pre-tokenizer is 'newest', whose rule is not known here"),
    ({"tokens": None}, "no list tokenizer.ggml.tokens"),
    ({"merges": None}, "no list tokenizer.ggml.merges"),
    ({"merges": ["ab"]}, "a merge without a space, 'ab'"),
    ({"merges": ["nope nothing"]}, "tokenizer is inconsistent"),
    ({"token_type": np.ones(3)}, "has 800 tokens but not as many token types"),
    ({"eos_token_id": 801}, "eos token is 801, but it has 800 tokens"),
    ({"model": "llama"}, "no score for each token"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_what_cannot_be_rebuilt_is_refused(
    metadata: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(EdgequantError, match=sentence):
        Tokenizer.from_gguf(changed, VOCAB)


def test_more_tokens_than_rows_of_the_embedding_are_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(EdgequantError, match="has 800 tokens but embeds 700"):
        Tokenizer.from_gguf(metadata, 700)
