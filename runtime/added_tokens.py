"""Tokens, special tokens and chat templates that stand in other files than tokenizer.json.

Which file counts where several say something is what transformers 5 does; docs/precedence.md has
the table.
"""

from pathlib import Path
from typing import Any

import tokenizers

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_files import read_json, tokens_of
from runtime.links import check_kind

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that say how texts become ids; of two folders all of one folder's count."""
SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""Names of special tokens in tokenizer_config.json, in the order in which they get new ids."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What an added token says beside its text."""


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; special_tokens_map.json wins unless there is an added_tokens_decoder.

    Raises CorruptFileError for a file that is not what it must be.
    """
    settings = read_json(folder / "tokenizer_config.json")
    if settings.get("added_tokens_decoder") is None:
        settings = settings | read_json(folder / "special_tokens_map.json")
    return settings


def content(token: Any) -> str | None:
    """The text of a token that is written as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def add_tokens(
    folder: Path, settings: dict[str, Any], backend: tokenizers.Tokenizer
) -> tuple[str, ...]:
    """Add the tokens that `settings` and added_tokens.json name; those that were not there.

    Raises UnsupportedError when a token would get another id than its file says.
    """
    named = {text for key in SPECIAL if (text := content(settings.get(key)))}
    wanted = _declared(folder, settings, named)
    tokens = [*(token for _, token in wanted), *_without_ids(settings)]
    new = [token.content for token in tokens if backend.token_to_id(token.content) is None]
    backend.add_tokens(tokens)
    own = [(token.content, token.id) for token in tokens_of(folder / "tokenizer.json")]
    for text, index in (*own, *((token.content, index) for index, token in wanted)):
        found = backend.token_to_id(text)
        if found != index:
            raise UnsupportedError(
                f"{folder} gives the token {text!r} the id {index}, but it has the id "
                f"{found}, because ids before it are missing or taken; save the tokenizer again "
                "with AutoTokenizer.from_pretrained(...).save_pretrained(...)."
            )
    return tuple(dict.fromkeys(new))


def _declared(
    folder: Path, settings: dict[str, Any], named: set[str]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """Tokens that come with an id, in the order of their ids."""
    table: dict[int, tokenizers.AddedToken] = {}
    decoder = settings.get("added_tokens_decoder")
    if decoder is not None:
        for index, token in decoder.items():
            table[int(index)] = _token(token, token.get("special") or token["content"] in named)
    else:
        for text, index in read_json(folder / "added_tokens.json").items():
            special = text in named
            table[index] = tokenizers.AddedToken(text, normalized=not special, special=special)
    return sorted(table.items())


def _without_ids(settings: dict[str, Any]) -> list[tokenizers.AddedToken]:
    """Special tokens that get the next ids: the named ones, then the list of further ones."""
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    more = more.values() if isinstance(more, dict) else more
    return [_token(each, True) for each in (*map(settings.get, SPECIAL), *more) if content(each)]


def _token(found: str | dict[str, Any], special: bool) -> tokenizers.AddedToken:
    """A token as files write it: its text, or an object with the text and flags."""
    flags = {} if isinstance(found, str) else {f: bool(found[f]) for f in FLAGS if f in found}
    flags["special"] = special
    return tokenizers.AddedToken(content(found), **flags)


def chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name: files of their own before the entry of tokenizer_config.json.

    The usual one is called "default". Raises CorruptFileError for templates that are no text.
    """
    files = {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        files["default"] = folder / "chat_template.jinja"
    if files:
        return {name: _text(path) for name, path in files.items()}
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}
    return dict(found) if isinstance(found, dict) else {"default": found} if found else {}


def _text(path: Path) -> str:
    """The text of a template's file."""
    check_kind(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
