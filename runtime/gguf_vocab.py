"""A GGUF's vocabulary as a `tokenizers` tokenizer.

GGUF stores tokens, their types, and merges ("gpt2") or scores ("llama"), but of the rule that cuts
a text into words only a name: runtime/pre_tokenizers.py says what it means.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken
from tokenizers.models import BPE

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_special import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, stripping, token_types
from runtime.panics import panics
from runtime.pre_tokenizers import ALIASES, PRE_TOKENIZERS, PreTokenizer

SPACE = "\u2581"
"""How sentencepiece writes a space inside a token."""


def tokenizer_backend(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a file. Raises EdgequantError for a kind that is unknown, or bad tables."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        settings = _bpe(metadata)
    elif kind == "llama":
        settings = _sentencepiece(metadata)
    else:
        raise UnsupportedError(
            f"the GGUF has a tokenizer of kind {kind!r}; supported: 'gpt2' and 'llama'."
        )
    with panics("the GGUF's tokenizer"):
        try:
            return _build(settings)
        except Exception as error:  # the library raises bare Exception
            raise CorruptFileError(
                f"the GGUF's tokenizer is inconsistent ({error}); convert the model again."
            ) from error


def _build(settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer; its large tables do not pass through JSON, which would take twice as long."""
    model = BPE(**settings["model"])
    empty = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    parts = tokenizers.Tokenizer.from_str(json.dumps(settings | empty))
    backend = tokenizers.Tokenizer(model)
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (part := getattr(parts, name)) is not None:
            setattr(backend, name, part)
    added = settings["added_tokens"]
    backend.add_special_tokens([AddedToken(**token) for token in added if token["special"]])
    backend.add_tokens([AddedToken(**token) for token in added if not token["special"]])
    return backend


def pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    """The meaning of the file's pre-tokenizer name. Raises EdgequantError for an unknown name."""
    name = str(metadata.get("tokenizer.ggml.pre") or "default")
    name = ALIASES.get(name, name)
    if name not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"the GGUF's pre-tokenizer is {name!r}, whose rule is not known here; "
            f"known: {', '.join([*PRE_TOKENIZERS, *ALIASES])}."
        )
    return PRE_TOKENIZERS[name]


def _table(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Tokens, and their types as llama.cpp takes them."""
    tokens = _strings(metadata, "tokens")
    types = metadata.get("tokenizer.ggml.token_type", np.full(len(tokens), NORMAL))
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise CorruptFileError(
            f"the GGUF has {len(tokens)} tokens but not as many token types; convert it again."
        )
    return tokens, token_types(metadata, tokens, [int(token_type) for token_type in types])


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list):
        raise CorruptFileError(f"the GGUF has no list tokenizer.ggml.{key}; convert it again.")
    return found


def _settings(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], **parts: Any
) -> dict[str, Any]:
    """As in a tokenizer.json; tokens that are matched whole become its added tokens."""
    strips = stripping(metadata, tokens)
    added = [
        {
            "content": token,
            "special": token_type != USER_DEFINED,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": token in strips,
        }
        for token, token_type in zip(tokens, types, strict=True)
        if token_type in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    empty = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    return empty | {"added_tokens": added} | parts


def _vocab(tokens: list[str]) -> dict[str, int]:
    """Every token's id; the library numbers added tokens anew that are not in it."""
    return {token: index for index, token in enumerate(tokens)}


def _bpe(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Byte-level BPE: pairs of the merge list, in its order."""
    pre = pre_tokenizer(metadata)
    tokens, types = _table(metadata)
    merges = []
    for merge in _strings(metadata, "merges"):
        cut = merge.find(" ", 1)
        if cut < 0:
            raise CorruptFileError(
                f"the GGUF has a merge without a space, {merge!r}; convert again."
            )
        merges.append((merge[:cut], merge[cut + 1 :]))
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in pre.patterns
    ]
    bytes_only = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    byte_level = {"type": "ByteLevel", **bytes_only}
    return _settings(
        metadata,
        tokens,
        types,
        normalizer={"type": "NFC"} if pre.nfc else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        decoder=byte_level,
        model={
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": _vocab(tokens),
            "merges": merges,
        },
    )


def _sentencepiece(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Sentencepiece's BPE: any two neighbours that make a token, the best score first."""
    tokens, types = _table(metadata)
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise CorruptFileError(
            "the GGUF's tokenizer has no score for each token; convert it again."
        )
    unknown = next(
        (t for t, token_type in zip(tokens, types, strict=True) if token_type == UNKNOWN), None
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    unspace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    fallback = [unspace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return _settings(
        metadata,
        tokens,
        types,
        normalizer={"type": "Sequence", "normalizers": [*prepend, spaces]},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": [*fallback, *strip]},
        model={
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": _vocab(tokens),
            "merges": merges_of(tokens, types, scores),
        },
    )


def merges_of(tokens: list[str], types: list[int], scores: np.ndarray) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a third one, in the order of the third one's score."""
    joined = (NORMAL, USER_DEFINED)  # the latter too where it has spaces: texts have none then
    words = {token: scores[i] for i, token in enumerate(tokens) if types[i] in joined}
    lengths = sorted({len(word) for word in words})  # few, even where one of them is a book
    merges = []
    for word in sorted(words, key=lambda token: -words[token]):
        for cut in lengths:
            if cut < len(word) and word[:cut] in words and word[cut:] in words:
                merges.append((word[:cut], word[cut:]))
    return merges
