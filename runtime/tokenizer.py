"""Text to token ids and back, on the `tokenizers` library; chat templates in jinja2's sandbox."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import EdgequantError


@dataclass(frozen=True)
class Tokenizer:
    """The model's own tokenizer, with what generation must know."""

    backend: tokenizers.Tokenizer
    eos: tuple[int, ...] = ()
    """Ids that end a generation (generation_config first, then config)."""
    bos: int | None = None
    add_bos: bool = False
    """Whether a text starts with `bos` when it is evaluated."""
    chat_template: str | None = None
    special: dict[str, str] = field(default_factory=dict)
    """Names such as "bos_token" that a chat template may use."""

    @property
    def separator(self) -> int | None:
        """Id put between documents: bos where the model expects one, else the last eos."""
        if self.add_bos and self.bos is not None:
            return self.bos
        return self.eos[-1] if self.eos else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens spelled in it are recognised, none are added."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of some ids."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as it becomes whole: a character split over tokens waits for its last one."""
        pending: list[int] = []
        for token in ids:
            pending.append(token)
            text = self.decode(pending, skip_special=True)
            if text and not text.endswith("\ufffd"):
                yield text
                pending = []
        if pending and (text := self.decode(pending, skip_special=True)):
            yield text

    def render(self, messages: list[dict[str, str]], generate: bool = False) -> str:
        """Messages through the chat template; `generate` opens the assistant's turn.

        Raises ValueError when the model has no template or the template refuses the messages.
        """
        if not self.chat_template:
            raise ValueError("this model has no chat template; use plain text.")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False, **kw)
        try:
            template = environment.from_string(self.chat_template)
            return template.render(
                messages=messages, add_generation_prompt=generate, **self.special
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refused the messages: {error}") from error

    @staticmethod
    def from_folder(folder: Path) -> "Tokenizer":
        """From tokenizer.json, tokenizer_config.json and generation_config.json.

        Raises EdgequantError when tokenizer.json is missing or unreadable.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise EdgequantError(
                f"{folder} has no tokenizer.json; save it there with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise EdgequantError(f"{path} cannot be read: {error}.") from error
        settings = read_json(folder / "tokenizer_config.json")
        configs = [read_json(folder / name) for name in ("generation_config.json", "config.json")]
        special = {k: text for k in SPECIAL if (text := _content(settings.get(k)))}
        bos = backend.token_to_id(special["bos_token"]) if "bos_token" in special else None
        return Tokenizer(
            backend,
            eos=_eos(configs, backend, special),
            bos=bos,
            add_bos=bool(settings.get("add_bos_token", _adds_bos(backend, bos))),
            chat_template=_template(folder, settings),
            special=special,
        )


SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} when the file is missing. Raises EdgequantError when it is not JSON."""
    if not path.exists():
        return {}
    try:
        out: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgequantError(f"{path} is not valid JSON ({error}); download it again.") from error
    return out


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _adds_bos(backend: tokenizers.Tokenizer, bos: int | None) -> bool:
    return bos is not None and bos in backend.encode("a").ids


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


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: chat_template.jinja, or the entry of tokenizer_config.json (its default one)."""
    separate = folder / "chat_template.jinja"
    if separate.exists():
        return separate.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        return next((t["template"] for t in found if t["name"] == "default"), None)
    return found
