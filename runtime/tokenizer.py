"""Text to token ids and back, on the `tokenizers` library."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from runtime import chat
from runtime.added_tokens import SPECIAL, add_tokens, chat_templates, content, tokenizer_settings
from runtime.config_file import read_config
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_special import default_id, end_tokens
from runtime.gguf_vocab import pre_tokenizer, tokenizer_backend
from runtime.json_files import read_json
from runtime.panics import panics


@dataclass(frozen=True)
class Tokenizer:
    """The model's own tokenizer, with what generation must know."""

    backend: tokenizers.Tokenizer
    eos: tuple[int, ...] = ()
    """Ids that end a generation (generation_config first, then config)."""
    bos: int | None = None
    prefix: tuple[int, ...] = ()
    """Ids put before a text, `bos` alone in most models; `encode` leaves them to its caller."""
    suffix: tuple[int, ...] = ()
    """Ids put after a text, as models that embed texts have it; a prompt goes on without."""
    chat_template: str | None = None
    special: dict[str, str] = field(default_factory=dict)
    """Names such as "bos_token" that a chat template may use."""
    more_templates: dict[str, str] = field(default_factory=dict)
    """Chat templates of other names than the default one, such as "tool_use"."""
    added: tuple[str, ...] = ()
    """Tokens that other files than tokenizer.json add."""

    @property
    def separator(self) -> int | None:
        """Id put between documents: what begins a text if anything does, else the last eos."""
        return next(iter(self.prefix or self.eos[-1:]), None)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens spelled in it are recognised, none are added."""
        with panics("the tokenizer"):
            return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of some ids."""
        with panics("the tokenizer"):
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as it becomes whole: a character split over tokens waits for its last one."""
        shown: list[int] = []  # tokens of the last piece: a decoder strips the space of its first
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            text = self._after(shown, pending)
            if text and not text.endswith("\ufffd"):
                yield text
                shown, pending = pending, []
        if pending and (text := self._after(shown, pending)):
            yield text

    def _after(self, before: list[int], ids: list[int]) -> str:
        """What ids add to the text of the tokens before them."""
        start = len(self.decode(before, skip_special=True))
        return self.decode(before + ids, skip_special=True)[start:]

    def render(
        self,
        messages: list[dict[str, Any]],
        generate: bool = False,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Messages through the chat template; `generate` opens the assistant's turn.

        tools: JSON schemas of what the model may call, for templates that have a place for them.

        Raises ValueError when the model has no template or the template refuses the messages.
        """
        if not self.chat_template:
            raise ValueError("this model has no chat template; use plain text.")
        variables = {"messages": messages, "tools": tools, "add_generation_prompt": generate}
        return chat.render(self.chat_template, variables | self.special)

    def settings(self) -> dict[str, Any]:
        """All of it as tokenizer.json has it, with the tokens that other files add.

        Raises CorruptFileError for an id that no embedding reaches.
        """
        ids = {index: text for text, index in self.backend.get_vocab().items()}
        last = max(ids, default=0)
        if last >= MOST_TOKENS:  # the library looks at every id up to the last
            raise CorruptFileError(
                f"tokenizer.json gives the token {ids[last]!r} the id {last}; download it again."
            )
        return dict(json.loads(self.backend.to_str()))

    def notes(self) -> list[str]:
        """What stands after a text, and whether the chat template refuses the plainest messages."""
        told = []
        if self.suffix:
            text = self.decode(self.suffix)
            told.append(f"tokenizer.json puts {text!r} after each text; prompts go without")
        if not self.chat_template:
            return told
        texts = {"user": "Hi", "assistant": "Hello"}
        try:
            self.render([{"role": role, "content": text} for role, text in texts.items()])
        except ValueError as error:
            reason = str(error).removeprefix(chat.REFUSED)
            told.append(f"the chat template refuses even a question and its answer: {reason}")
        return told

    @staticmethod
    def from_folder(folder: Path) -> "Tokenizer":
        """From a checkpoint's folder, read as transformers reads it: see runtime/added_tokens.py.

        Raises CorruptFileError when tokenizer.json is missing, or a file is not what it must be.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CorruptFileError(
                f"{folder} has no tokenizer.json; save it there with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
            )
        with panics(path):
            try:
                backend = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises bare Exception
                raise CorruptFileError(f"{path} cannot be read: {error}.") from error
        if getattr(backend.model, "dropout", None):
            raise UnsupportedError(
                f"{path} sets a dropout of {backend.model.dropout:g}, which gives other ids each "
                "time; set it to null."
            )
        # what a training run left there: transformers sets both anew in each call
        backend.no_truncation()
        backend.no_padding()
        settings = tokenizer_settings(folder)
        if settings.get("split_special_tokens"):
            raise UnsupportedError(
                f"{folder / 'tokenizer_config.json'} sets split_special_tokens, so that special "
                "tokens in a text are cut like words, chat messages among them; set it to false."
            )
        with panics(folder):
            added = add_tokens(folder, settings, backend)
        configs = [read_json(folder / "generation_config.json"), read_config(folder)]
        special = {k: text for k in SPECIAL if (text := content(settings.get(k)))}
        templates = chat_templates(folder, settings)
        bos = backend.token_to_id(special["bos_token"]) if "bos_token" in special else None
        with panics(path):
            prefix, suffix = surroundings(
                lambda text, special: backend.encode(text, add_special_tokens=special).ids, path
            )
        return Tokenizer(
            backend,
            eos=_eos(configs, backend, special),
            bos=prefix[0] if bos is None and len(prefix) == 1 else bos,
            prefix=prefix,
            suffix=suffix,
            chat_template=templates.pop("default", None),
            special=special,
            more_templates=templates,
            added=added,
        )

    @staticmethod
    def from_gguf(metadata: Mapping[str, Any], vocab: int) -> "Tokenizer | None":
        """From a GGUF's metadata, for a model of `vocab` tokens; None when it has no tokenizer.

        Raises EdgequantError for a tokenizer that cannot be rebuilt, or ids outside of its table.
        """
        kind = metadata.get("tokenizer.ggml.model", "none")
        if kind in ("none", "no_vocab"):
            return None
        backend = tokenizer_backend(metadata)
        tokens = metadata["tokenizer.ggml.tokens"]
        if len(tokens) > vocab:
            raise CorruptFileError(
                f"the GGUF has {len(tokens)} tokens but embeds {vocab}; convert the model again."
            )
        ids = {name: _gguf_id(metadata, name, tokens) for name in GGUF_IDS}
        if ids["eos"] is None:
            ids["eos"] = default_id(kind, "eos", len(tokens))
        more = map(int, metadata.get("edgequant.eos_token_ids", ()))
        eos = [found for name in ("eos", "eot", "eom") if (found := ids[name]) is not None]
        named = {f"{name}_token": ids[key] for key, name in GGUF_IDS.items() if name}
        usual = kind == "llama" or pre_tokenizer(metadata).add_bos
        if add_bos := bool(metadata.get("tokenizer.ggml.add_bos_token", usual)):
            ids["bos"] = default_id(kind, "bos", len(tokens)) if ids["bos"] is None else ids["bos"]
        add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
        return Tokenizer(
            backend,
            eos=tuple(end_tokens(metadata, tokens, [*eos, *more])),
            bos=ids["bos"],
            prefix=(ids["bos"],) if add_bos and ids["bos"] is not None else (),
            suffix=(ids["eos"],) if add_eos and ids["eos"] is not None else (),
            chat_template=metadata.get("tokenizer.chat_template"),
            special={name: tokens[found] for name, found in named.items() if found is not None},
        )


MOST_TOKENS = 1 << 24
"""The largest vocabularies have a quarter of a million."""
GGUF_IDS = {"bos": "bos", "eos": "eos", "eot": "", "eom": "", "padding": "pad", "unknown": "unk"}
"""tokenizer.ggml.{key}_token_id -> the name a chat template uses."""

GGUF_NONE = 2**32 - 1
"""An id of -1 in a uint32: some converters write it for "none"."""


def _gguf_id(metadata: Mapping[str, Any], name: str, tokens: list[str]) -> int | None:
    """A special token's id in a GGUF, None when it has none."""
    found = metadata.get(f"tokenizer.ggml.{name}_token_id", GGUF_NONE)
    if isinstance(found, int) and found in (GGUF_NONE, -1):
        return None
    if not isinstance(found, int) or not 0 <= found < len(tokens):
        raise CorruptFileError(
            f"the GGUF's {name} token is {found!r}, but it has {len(tokens)} tokens; "
            "convert the model again."
        )
    return found


ANY_TEXT = "a 1 . я 日"
"""Some of it is in every vocabulary."""


def surroundings(
    encode: Callable[[str, bool], list[int]], file: Path
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that are put before and after a text, by `encode(text, special)` with and without them.

    Raises UnsupportedError where more is done than that.
    """
    plain, full = encode(ANY_TEXT, False), encode(ANY_TEXT, True)
    starts = range(len(full) - len(plain) + 1)
    start = next((at for at in starts if full[at : at + len(plain)] == plain), 0)
    prefix, suffix = full[:start], full[start + len(plain) :]
    if encode("a", True) != [*prefix, *encode("a", False), *suffix]:
        raise UnsupportedError(
            f"the post-processor of {file} makes {full} of {plain}, which is no text between other "
            "tokens; set it to null, or to a template with $A once."
        )
    return tuple(prefix), tuple(suffix)


def _eos(
    configs: list[dict[str, Any]], backend: tokenizers.Tokenizer, special: dict[str, str]
) -> tuple[int, ...]:
    """Every id that ends a text, in order of authority, without repeats."""
    ids: list[int] = []
    for config in configs:
        found = config.get("eos_token_id")
        ids += found if isinstance(found, list) else [found] if found is not None else []
    if "eos_token" in special and (eos := backend.token_to_id(special["eos_token"])) is not None:
        ids.append(eos)
    return tuple(dict.fromkeys(ids))
