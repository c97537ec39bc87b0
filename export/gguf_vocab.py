"""The tokenizer of a checkpoint as GGUF metadata.

GGUF has no room for a rule that it does not know by name. A tokenizer.json that says anything GGUF
cannot say is refused: a file whose reader cuts texts in other words would be a worse model.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from export.gguf_words import INSTEAD, pre_tokenizer_name
from export.sentencepiece import sentencepiece
from runtime.config_file import read_config
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_special import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from runtime.json_files import read_json
from runtime.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."

CODE_TOKENS = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<|fim\u2581begin|>", "<PRE>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<|fim\u2581hole|>", "<SUF>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<|fim\u2581end|>", "<MID>"),
    "fim_pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "fim_rep": ("<|repo_name|>", "<|fim_repo|>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
"""GGUF's name of a token of fill-in-the-middle -> how code models spell it."""


def vocabulary(source: Path, vocab: int) -> dict[str, Any]:
    """Metadata for the tokenizer of the folder `source` and a model of `vocab` tokens.

    Values are str, int, bool, or lists of str, int or float. Raises EdgequantError when
    tokenizer.json is missing, has more tokens than the model, or follows a rule that GGUF has no
    name for.
    """
    tokenizer = Tokenizer.from_folder(source)
    settings = tokenizer.settings()
    model = settings["model"]
    if model.get("type") != "BPE":
        raise UnsupportedError(
            f"{source / 'tokenizer.json'} is a {model.get('type')} model; GGUF writes BPE only, "
            f"byte-level or with byte fallback: {INSTEAD}"
        )
    _refuse_normalized(tokenizer.backend, settings)
    tokens, types = _table(settings, vocab)
    table: dict[str, Any] = {"tokens": tokens, "token_type": types}
    if not model["merges"]:
        raise UnsupportedError(
            f"tokenizer.json has no merges, and llama.cpp opens no GGUF without; {INSTEAD}"
        )
    merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
    if model.get("byte_fallback"):
        table |= sentencepiece(settings, tokens, types, merges)
    else:
        table |= _byte_level(settings, merges)
    special = _special(tokenizer, source, vocab)
    return {f"{PREFIX}{key}": value for key, value in table.items()} | special


def _table(settings: dict[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    """Token and type of every row of the embedding; rows without a token are unused."""
    model = settings["model"]
    names = {index: token for token, index in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for token, index in model["vocab"].items():
        if model.get("byte_fallback") and _is_byte(token):
            types[index] = BYTE
    for token in settings["added_tokens"]:
        names[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
        if strange := [key for key in ("lstrip", "rstrip", "single_word") if token.get(key)]:
            raise UnsupportedError(
                f"the token {token['content']!r} sets {strange[0]}, which GGUF cannot say; "
                "set it to false in tokenizer.json if the model does not need it."
            )
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    if max(names) >= vocab:
        raise CorruptFileError(
            f"the tokenizer has {max(names) + 1} tokens (the last is {names[max(names)]!r}) but "
            f"the model embeds {vocab}; take tokenizer.json and tokenizer_config.json that came "
            "with the weights, or resize the embedding."
        )
    rows = range(vocab)
    return _unique(names, vocab), [types.get(i, UNUSED) for i in rows]


def _unique(names: dict[int, str], vocab: int) -> list[str]:
    """The text of every row; rows without a token get a name that no token has.

    Readers look tokens up by their texts. Raises UnsupportedError when two tokens share one.
    """
    taken: dict[str, int] = {}
    for index, text in sorted(names.items()):
        if taken.setdefault(text, index) != index:
            raise UnsupportedError(
                f"tokenizer.json gives both {taken[text]} and {index} the text {text!r}, and GGUF "
                f"tells tokens apart by their texts; {INSTEAD}"
            )
    table = []
    for index in range(vocab):
        text = names.get(index, f"[PAD{index}]")
        while taken.get(text, index) != index:
            text = f"[{text}]"
        table.append(text)
    return table


def _refuse_normalized(backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
    """Raise UnsupportedError for an added token that is searched for in normalized text.

    GGUF's readers search the text as it is; where that gives other ids, the file would be wrong.
    """
    marked = [token for token in settings["added_tokens"] if token["normalized"]]
    if not marked or settings["normalizer"] is None:
        return
    plain = json.dumps(
        settings | {"added_tokens": [t | {"normalized": False} for t in settings["added_tokens"]]}
    )
    other = tokenizers.Tokenizer.from_str(plain)
    for token in marked:
        text = token["content"]
        for tried in (f"a{text}b", f"a {text} b", f"{text}b", f" {text}"):
            ids = [t.encode(tried, add_special_tokens=False).ids for t in (backend, other)]
            if ids[0] != ids[1]:
                raise UnsupportedError(
                    f"the token {text!r} is searched for in normalized text (normalized is true), "
                    "which GGUF cannot say and which gives other ids; set it to false in "
                    f"tokenizer.json if the model was not trained so, or {INSTEAD}"
                )


def _is_byte(token: str) -> bool:
    """Whether a token stands for one byte, like <0x0A>."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_level(settings: dict[str, Any], merges: list[list[str]]) -> dict[str, Any]:
    """Keys of a byte-level BPE."""
    return {
        "model": "gpt2",
        "pre": pre_tokenizer_name(settings),
        "merges": [" ".join(pair) for pair in merges],
        "add_space_prefix": False,
    }


def _special(tokenizer: Tokenizer, source: Path, vocab: int) -> dict[str, Any]:
    """Special ids, whether a text is put between bos and eos, and the chat template.

    GGUF has room for three ends of a text, and our own key for all of them.
    """
    config = read_config(source) | read_json(source / "generation_config.json")
    ends = sorted(tokenizer.eos, key=lambda end: end not in tokenizer.suffix)
    _refuse_surroundings(tokenizer, ends)
    ids = {
        "bos": tokenizer.bos if tokenizer.bos is not None else config.get("bos_token_id"),
        **dict(zip(("eos", "eot", "eom"), ends, strict=False)),
        "padding": _id(tokenizer, "pad_token", config.get("pad_token_id")),
        "unknown": _id(tokenizer, "unk_token", None),
    }
    for name, found in [*ids.items(), *(("eos", eos) for eos in tokenizer.eos)]:
        if found is not None and not 0 <= found < vocab:
            raise CorruptFileError(
                f"{source} names {found} as {name} token, but the model embeds {vocab}; "
                "correct its generation_config.json and config.json."
            )
    out: dict[str, Any] = {
        f"{PREFIX}{name}_token_id": found for name, found in ids.items() if found is not None
    }
    out |= _code_tokens(tokenizer)
    out[f"{PREFIX}add_bos_token"] = bool(tokenizer.prefix)
    if tokenizer.suffix:
        out[f"{PREFIX}add_eos_token"] = True
    if tokenizer.eos:
        out["edgequant.eos_token_ids"] = list(tokenizer.eos)
    if tokenizer.chat_template:
        out["tokenizer.chat_template"] = tokenizer.chat_template
    if tokenizer.more_templates:
        out["tokenizer.chat_templates"] = sorted(tokenizer.more_templates)
    for name, template in tokenizer.more_templates.items():
        out[f"tokenizer.chat_template.{name}"] = template
    return out


def _code_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens of a code model that mark the parts of a file to fill in."""
    found = {}
    for name, texts in CODE_TOKENS.items():
        ids = (tokenizer.backend.token_to_id(text) for text in texts)
        index = next((index for index in ids if index is not None), None)
        if index is not None:
            found[f"{PREFIX}{name}_token_id"] = index
    return found


def _refuse_surroundings(tokenizer: Tokenizer, ends: list[int]) -> None:
    """Raise UnsupportedError unless bos alone is put before a text, and an end alone after it."""
    for where, found, key, usual in (
        ("before", tokenizer.prefix, "bos_token_id", tokenizer.bos),
        ("after", tokenizer.suffix, "eos_token_id", next(iter(ends), None)),
    ):
        if found and found != (usual,):
            texts = [tokenizer.backend.id_to_token(index) for index in found]
            raise UnsupportedError(
                f"tokenizer.json puts {texts} {where} each text, GGUF nothing but its {key} "
                f"({usual}); write an ONNX folder, which keeps tokenizer.json itself."
            )


def _id(tokenizer: Tokenizer, name: str, default: int | None) -> int | None:
    """Id of a special token that tokenizer_config.json names."""
    text = tokenizer.special.get(name)
    found = None if text is None else tokenizer.backend.token_to_id(text)
    return default if found is None else found
