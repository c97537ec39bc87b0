"""The word rule of a tokenizer.json under GGUF's name for it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from export.gguf_words import pre_tokenizer_name
from runtime.errors import EdgequantError
from runtime.pre_tokenizers import GPT2, LLAMA3, UNLIKE
from tests.tokenizers_made import KINDS, made


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    return settings


def test_a_word_rule_without_a_name_is_refused_with_its_pattern(tmp_path: Path) -> None:
    settings, rule = _settings(made("qwen2", tmp_path)), r"\w+|\W+"
    settings["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = rule
    with pytest.raises(EdgequantError, match="no name for this .*" + re.escape(repr([rule]))):
        pre_tokenizer_name(settings)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("qwen2", {"normalizer": {"type": "Lowercase"}}),
        ("llama-bpe", {"normalizer": {"type": "NFC"}}),
        ("gpt-2", {"pre_tokenizer": None}),
        ("gpt-2", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}),
        ("gpt-2", {"pre_tokenizer": {"type": "Whitespace"}}),
    ],
)
def test_any_step_that_gguf_cannot_name_is_refused(
    tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    with pytest.raises(EdgequantError, match="GGUF has no name for this tokenizer's rule"):
        pre_tokenizer_name(_settings(made(kind, tmp_path)) | change)


SAME_RULE = {"bailingmoe": "deepseek-r1-qwen", "glm4": "llama-bpe"}
"""Names whose rule an earlier name has as well."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_gets_its_name(tmp_path: Path, kind: str) -> None:
    named = pre_tokenizer_name(_settings(made(kind, tmp_path)))
    assert named in (kind, SAME_RULE.get(kind))


def split(pattern: str, **more: Any) -> dict[str, Any]:
    """A step of tokenizer.json that cuts at a regular expression."""
    usual = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": pattern}} | usual | more


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
PUNCTUATION = {"type": "Punctuation", "behavior": "Contiguous"}
OLD = split("[0-9][0-9][0-9]")
DIGITS = {"type": "Digits", "individual_digits": False}
SPELLED: list[tuple[list[dict[str, Any]], str]] = [
    ([split(LLAMA3, behavior="Removed", invert=True)], "dbrx"),
    ([split(LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"))], "dbrx"),
    ([PUNCTUATION, split(GPT2), DIGITS, OLD], "falcon"),
    ([PUNCTUATION, split(GPT2), OLD], "falcon"),
]


@pytest.mark.parametrize(("found", "name"), SPELLED)
def test_a_rule_may_be_spelled_in_several_ways(
    tmp_path: Path, found: list[dict[str, Any]], name: str
) -> None:
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [*found, BYTES]}
    settings = _settings(made("gpt-2", tmp_path)) | {"pre_tokenizer": pre_tokenizer}
    assert pre_tokenizer_name(settings) == name


def test_what_does_not_match_everything_must_not_be_inverted(tmp_path: Path) -> None:
    inverted = split(r"\p{N}", behavior="Removed", invert=True)
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [inverted, split(GPT2), BYTES]}
    with pytest.raises(EdgequantError, match="no name for this tokenizer's rule.*<Split>"):
        pre_tokenizer_name(_settings(made("gpt-2", tmp_path)) | {"pre_tokenizer": pre_tokenizer})


@pytest.mark.parametrize("rule", UNLIKE, ids=list(UNLIKE.values()))
def test_a_rule_that_llamacpp_only_resembles_is_refused(
    tmp_path: Path, rule: tuple[str, ...]
) -> None:
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [*map(split, rule), BYTES]}
    settings = _settings(made("gpt-2", tmp_path)) | {"pre_tokenizer": pre_tokenizer}
    with pytest.raises(EdgequantError, match=f"as '{UNLIKE[rule]}', but cuts words with combining"):
        pre_tokenizer_name(settings)
