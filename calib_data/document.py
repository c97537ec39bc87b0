"""What calibration text is made of: documents, the tokenizer that reads them, the error."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from runtime.errors import InputError

Messages = list[dict[str, Any]]  # a conversation: [{"role": "user", "content": "Hi"}, ...]
Tools = list[dict[str, Any]]  # what a model may call, as JSON schemas
Part = Literal["calibration", "heldout", "all"]

FLAGS: dict[Part, str] = {"calibration": "--calib", "heldout": "--eval", "all": "--eval"}
"""How the command line's flags for rows and length of each part begin."""

UNRENDERED = "conversation not rendered: "  # how the reason begins
UNREADABLE = "row not read: "
WITHOUT_TOOLS = "conversation without its tools, which the chat template leaves out"

INVALID = "text that is not valid Unicode"  # half a surrogate pair, or bytes that are no UTF-8

SHORTEST = 8  # tokens; a shorter document is all beginning and no context


class CalibrationError(InputError):
    """Calibration text could not be loaded; the message is one sentence with the way out."""


class CalibrationTokenizer(Protocol):
    """What calibration needs of a tokenizer."""

    @property
    def separator(self) -> int | None:
        """Token id put between two documents (EOS or BOS); None puts nothing."""

    def encode(self, text: str) -> list[int]:
        """Token ids of text: none are added, special tokens spelled in the text are recognised."""

    def render(self, messages: Messages, *, tools: Tools | None = None) -> str:
        """Conversation as text through the chat template; ValueError when it has none."""


@dataclass(frozen=True)
class Conversation:
    """Messages with the tools that the model may call; without tools a list says it all."""

    messages: Messages
    tools: Tools


# text, a conversation, or tokens a model sampled
Content = str | Messages | Conversation | tuple[int, ...]


@dataclass(frozen=True)
class Unusable:
    """What a source holds in the place of a document."""

    reason: str


@dataclass(frozen=True)
class Document:
    """One text, conversation or sampled token sequence, with the digest that names it."""

    content: Content
    digest: bytes  # sha256 of the content before any template or tokenizer touches it

    @property
    def empty(self) -> bool:
        return not (self.content.strip() if isinstance(self.content, str) else self.content)

    @property
    def falls_in_heldout(self) -> bool:
        """One document in five, chosen by its own bytes: the same one for every model and seed."""
        return self.digest[0] % 5 == 0


def document(content: Content) -> Document:
    """Name content by its sha256; UnicodeEncodeError when it holds half a surrogate pair."""
    if isinstance(content, str):
        text = content
    else:
        value = (content.messages, content.tools) if isinstance(content, Conversation) else content
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return Document(content, hashlib.sha256(text.encode()).digest())


def unique(
    contents: Iterable[Content | Unusable], seen: set[bytes], dropped: Counter[str]
) -> Iterator[Document]:
    """Yield each document once, counting what is dropped; `seen` spans several calls."""
    for content in contents:
        if isinstance(content, Unusable):
            dropped[f"{UNREADABLE}{content.reason}"] += 1
            continue
        candidate = document(content)
        if candidate.empty:
            dropped["empty document"] += 1
        elif candidate.digest in seen:
            dropped["duplicate document"] += 1
        else:
            seen.add(candidate.digest)
            yield candidate


def encode(
    item: Document,
    tokenizer: CalibrationTokenizer,
    dropped: Counter[str],
    most: int | None = None,
) -> list[int] | None:
    """Tokens of a document; None, counted with the reason, when its template refuses it.

    Of a long one the first `most` are enough: a whole book takes 700 bytes of memory a token.
    """
    content = item.content
    if isinstance(content, tuple):
        return list(content)
    if not isinstance(content, str):
        try:
            content = rendered(content, tokenizer, dropped)
        except ValueError as problem:
            dropped[f"{UNRENDERED}{first_line(problem)}"] += 1
            return None
    if most is None:
        return tokenizer.encode(content)
    reach = AHEAD * most
    while reach < len(content):
        tokens = tokenizer.encode(content[:reach])
        if len(tokens) > most + MARGIN:  # those at the cut may be others than in the whole text
            return tokens[:most]
        reach *= 2
    return tokenizer.encode(content)


AHEAD = 8
"""Characters that are tokenized for each token that is wanted, to begin with."""
MARGIN = 64
"""Tokens before a cut that it may change."""


def rendered(
    content: Messages | Conversation, tokenizer: CalibrationTokenizer, dropped: Counter[str]
) -> str:
    """A conversation's text, counted when the template has no place for its tools."""
    if not isinstance(content, Conversation):
        return tokenizer.render(content)
    text = tokenizer.render(content.messages, tools=content.tools)
    if text == tokenizer.render(content.messages):
        dropped[WITHOUT_TOOLS] += 1
    return text


def first_line(problem: Exception) -> str:
    """Opening line of an error's message without its full stop, to be quoted in a sentence."""
    lines = str(problem).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(problem).__name__


def shown(names: Iterable[object], most: int = 20) -> str:
    """Names in one printable line, the first `most` of them."""
    texts = [str(name) for name in names]
    line = ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if texts[most:] else "")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
