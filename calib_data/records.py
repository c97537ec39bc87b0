"""One row of a data set: text, a conversation in one of the usual shapes, or why it is neither.

{"text": ...}                                   plain text
{"messages": [{"role": ..., "content": ...}]}   as OpenAI and the hub write them
{"conversations": [{"from": ..., "value": ...}]}    ShareGPT
{"prompt": ..., "completion": ...}              one question, one answer
{"instruction": ..., "input": ..., "output": ...}   Alpaca
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from calib_data.document import CalibrationError, Content, Messages, Unusable, document

Row = Mapping[str, Any]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}
"""ShareGPT's speakers -> roles; others keep their names."""


class NotMessages(ValueError):
    """Why a value is no conversation, to be counted."""


def content_of_row(row: Row, where: str) -> Content | Unusable:
    """What a row holds, by the first shape of SHAPES whose columns have values.

    Raises CalibrationError, with `where`, when none of its columns is one of them.
    """
    if not any(column in row for columns, _ in SHAPES for column in columns):
        raise CalibrationError(
            f"{where} has {', '.join(row) or 'nothing'}, but neither text nor messages: "
            "rename the one that holds the documents."
        )
    for columns, read in SHAPES:
        if row.get(columns[0]) is not None:
            return usable(partial(read, row))
    return ""


def content_of(value: object) -> Content | Unusable:
    """What one value holds: text, or a conversation. None is empty text."""
    if value is None:
        return ""
    return usable(lambda: value if isinstance(value, str) else turns_of(value))


def usable(read: Callable[[], Content]) -> Content | Unusable:
    """The content, or why it cannot be used."""
    try:
        content = read()
        document(content)
    except NotMessages as problem:
        return Unusable(str(problem))
    except UnicodeEncodeError:
        return Unusable("an unpaired surrogate, which no tokenizer reads")
    return content


def from_text(row: Row) -> Content:
    """Plain text, or a conversation in the column of that name."""
    text = row["text"]
    return turns_of(text) if isinstance(text, list) else text_of(text)


def from_messages(row: Row) -> Content:
    """A conversation, as a list or as the JSON text of one."""
    return turns_of(row["messages"])


def from_sharegpt(row: Row) -> Content:
    """Turns that say who speaks with `from` and what with `value`."""
    return turns_of(row["conversations"])


def from_prompt(row: Row) -> Content:
    """A prompt, as text or as turns, and what is answered to it."""
    answer = next((row[key] for key in ("completion", "response") if row.get(key) is not None), "")
    return [*as_turns(row["prompt"], "user"), *as_turns(answer, "assistant")]


def from_alpaca(row: Row) -> Content:
    """An instruction with its input, if any, and the output."""
    asked = "\n\n".join(text_of(row.get(key) or "") for key in ("instruction", "input"))
    return [*as_turns(asked.rstrip("\n"), "user"), *as_turns(row.get("output") or "", "assistant")]


SHAPES: tuple[tuple[tuple[str, ...], Callable[[Row], Content]], ...] = (
    (("messages",), from_messages),
    (("conversations",), from_sharegpt),
    (("text",), from_text),
    (("prompt", "completion", "response"), from_prompt),
    (("instruction", "input", "output"), from_alpaca),
)
"""Columns -> their reader, the first that has a value is taken."""


def as_turns(value: object, role: str) -> Messages:
    """Turns as they stand, or text as one turn of a role; none for empty text."""
    if isinstance(value, list):
        return turns_of(value)
    text = text_of(value)
    return [{"role": role, "content": text}] if text else []


def turns_of(value: object) -> Messages:
    """A conversation. Raises NotMessages for what is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise NotMessages("messages that are text, but not JSON") from None
    if not isinstance(value, list):
        raise NotMessages("messages that are no list")
    return [turn_of(turn) for turn in value]


def turn_of(turn: object) -> dict[str, Any]:
    """One turn with a role and a text; other keys stay, for templates that know them.

    Parquet fills the keys that other turns have with null, so null means absent.
    """
    if not isinstance(turn, dict):
        raise NotMessages("a message that is no object")
    kept = {key: value for key, value in turn.items() if value is not None}
    if "role" not in kept and isinstance(kept.get("from"), str):
        speaker = kept.pop("from")
        kept["role"] = ROLES.get(speaker, speaker)
        kept["content"] = kept.pop("value", None)
    if not isinstance(kept.get("role"), str):
        raise NotMessages("a message without a role")
    if kept.get("content") is None and not kept.get("tool_calls"):
        raise NotMessages("a message without content")
    return kept | {"content": text_of(kept.get("content") or "")}


def text_of(content: object) -> str:
    """Text, or the texts of a list of parts. Raises NotMessages for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NotMessages(f"{type(content).__name__} where text belongs")
    texts = []
    for part in content:
        found = part.get("text") if isinstance(part, dict) else part
        if not isinstance(found, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise NotMessages(f"content with a part that is no text ({kind})")
        texts.append(found)
    return "".join(texts)
