"""Metaspace, as transformers 5 saves Llama 2's tokenizer: llama.cpp has no spelling for its spaces.

Each way of llama.cpp fails on a text that the others get right. Where one of these tests fails,
llama.cpp has learned something, and export/gguf_vocab.py can write it.
"""

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from export.gguf_vocab import vocabulary
from quantize.report.torture import TORTURE
from runtime.engine import open_engine
from tests.gguf_made import tiny_gguf
from tests.interop.vocabulary import tokenize
from tests.tokenizers_made import save, sentencepiece

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

TEXTS = (*TORTURE, "a", " a", "  a", "</s>a", "a</s>b", "a</s> b", "</s> a", "")


def differing(scheme: str, folder: Path, keys: dict[str, Any]) -> set[str]:
    """Texts for which llama.cpp gives other ids than the tokenizer with this scheme."""
    original = tokenizers.Tokenizer.from_file(
        str(save(sentencepiece(scheme), folder / "original") / "tokenizer.json")
    )
    table = vocabulary(save(sentencepiece("prepend"), folder / "written"), 800)
    tokens = table.pop("tokenizer.ggml.tokens")
    plain = {"tokenizer.ggml.merges": None} | table
    engine = open_engine(tiny_gguf(folder / "x.gguf", tokens, plain | keys), "llamacpp")
    return {
        text
        for text in TEXTS
        if tokenize(engine, text) != original.encode(text, add_special_tokens=False).ids
    }


@pytest.mark.parametrize("extra", ({}, {"remove_extra_whitespaces": True}), ids=("", "trimmed"))
def test_no_flag_of_llamacpp_is_metaspace_first(tmp_path: Path, extra: dict[str, bool]) -> None:
    keys = {f"tokenizer.ggml.{key}": value for key, value in extra.items()}
    prefix = "tokenizer.ggml.add_space_prefix"
    always = differing("first", tmp_path / "always", keys | {prefix: True})
    never = differing("first", tmp_path / "never", keys | {prefix: False})
    own = {" a", "  a", "</s>a", "a</s>b", "a</s> b", "</s> a"}
    assert own <= always
    assert not {"a", ""} & always
    assert own & never == {"a</s>b", "a</s> b"}  # the first word alone
    assert "a" in never


def test_metaspace_always_differs_where_a_text_begins_with_a_space(tmp_path: Path) -> None:
    found = differing("always", tmp_path, {"tokenizer.ggml.add_space_prefix": True})
    assert {" a", "  a", "a</s> b", "</s> a"} <= found
    assert not {"a", "</s>a", "a</s>b", ""} & found


def test_metaspace_never_is_the_flag(tmp_path: Path) -> None:
    assert differing("never", tmp_path, {"tokenizer.ggml.add_space_prefix": False}) == set()
