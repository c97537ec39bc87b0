"""One conversation: turns of a role and a text, from what data sets write in their place."""

import json
from typing import Any

from calib_data.document import Messages, shown

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
}
"""Who speaks, in any case -> the role that chat templates know."""

SPEAKERS = ROLES | {"model": "assistant", "function": "tool", "observation": "tool"}
"""The same for ShareGPT's `from`; as a `role` these three are names of some templates' own."""

CALLERS = ("function_call", "tool_call")
"""Whose words in ShareGPT are calls as JSON; the first is also a key of OpenAI's older messages."""


class NotMessages(ValueError):
    """Why a value is no conversation, to be counted."""


def as_turns(value: object, role: str) -> Messages:
    """Turns as they stand, or text as one turn of a role; none for empty text."""
    if isinstance(value, list):
        return turns_of(value)
    text = text_of(value)
    return [{"role": role, "content": text}] if text else []


def turns_of(value: object) -> Messages:
    """A conversation, as a list or as the JSON text of one. Raises NotMessages for what is none."""
    value = from_json(value, "messages")
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
    speaker, said = kept.pop("from", None), kept.pop("value", None)
    call = without_nulls(kept.pop("function_call", None))
    if "role" not in kept and isinstance(speaker, str):
        if speaker.lower() in CALLERS:
            speaker, call, said = "gpt", said, None
        if speaker.lower() not in SPEAKERS:
            raise NotMessages("a message of a speaker other than human, gpt, system and tool")
        kept["role"] = SPEAKERS[speaker.lower()]
    if call and not kept.get("tool_calls"):
        kept["tool_calls"] = calls_of(call)
    kept.setdefault("content", said)
    if not isinstance(kept.get("role"), str):
        raise NotMessages("a message without a role")
    if kept["content"] is None and not kept.get("tool_calls"):
        raise NotMessages("a message without content")
    role = ROLES.get(kept["role"].lower(), kept["role"])
    return kept | {"role": role, "content": text_of(kept["content"] or "")}


def calls_of(value: object) -> list[dict[str, Any]]:
    """One call or several, as objects or as JSON text, in the form of `tool_calls`."""
    value = from_json(value, "calls")
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise NotMessages("a call without a name")
    return [{"type": "function", "function": call} for call in calls]


def history_of(value: object) -> Messages:
    """Earlier turns: pairs of question and answer, or messages. Raises NotMessages for others."""
    turns: Messages = []
    value = from_json(value, "histories")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list) and len(item) == 2:
            turns += [*as_turns(item[0], "user"), *as_turns(item[1], "assistant")]
        elif isinstance(item, dict):
            turns.append(turn_of(item))
        else:
            raise NotMessages("a history of neither pairs nor messages")
    return turns


def tools_of(value: object) -> list[dict[str, Any]]:
    """The tools on offer, as a list of objects or as its JSON text; null means absent here too."""
    value = from_json(value, "tools")
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise NotMessages("tools that are no list of objects")
    return [without_nulls(tool) for tool in value]


def without_nulls(value: Any) -> Any:
    """The same value without the keys that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def from_json(value: object, what: str) -> object:
    """What a text holds as JSON; anything else as it is. Raises NotMessages naming `what`."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise NotMessages(f"{what} that are text, but not JSON") from None


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
            raise NotMessages(f"content with a part that is no text ({shown([kind])})")
        texts.append(found)
    return "".join(texts)
