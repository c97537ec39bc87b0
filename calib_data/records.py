"""One row of a data set: text, a conversation in one of the usual shapes, or why it is neither.

{"messages": [{"role": ..., "content": ...}]}   as OpenAI and the hub write them
{"conversations": [{"from": ..., "value": ...}]}    ShareGPT
{"text": ...}                                   plain text
{"prompt": ..., "completion": ...}              one question, one answer; with `chosen`, preferences
{"instruction": ..., "input": ..., "output": ...}   Alpaca; Dolly with `context` and `response`

Beside a conversation `system`, `history` and `tools` are read.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from calib_data.document import (
    INVALID,
    CalibrationError,
    Content,
    Conversation,
    Messages,
    Unusable,
    document,
    shown,
)
from calib_data.turns import NotMessages, as_turns, history_of, text_of, tools_of, turns_of

Row = Mapping[str, Any]
Columns = Mapping[str, tuple[str, ...]]  # argument of a reader -> its columns, the best one first


class Shape(NamedTuple):
    """How rows are written: `read` is given the best column of each argument that is not empty."""

    main: Columns  # a row is of this shape when one of these holds something
    beside: Columns
    read: Callable[..., Content]


class RowReader:
    """Reads the rows of one source, and remembers what no row was read from."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.filled: dict[str, None] = {}  # columns that hold something, in order

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns that hold something in some row, and were read in none."""
        return tuple(column for column in self.filled if column not in self.taken)

    def read(self, row: Row, where: str) -> Content | Unusable:
        """What a row holds, by the first shape of SHAPES whose columns hold something.

        Raises CalibrationError, with `where`, when it has none of the columns of any shape.
        """
        if not any(column in row for column in MAIN):
            raise CalibrationError(
                f"{where} has {shown(row) or 'nothing'}, but neither text nor messages: "
                "rename the one that holds the documents."
            )
        full = {column: value for column, value in row.items() if holds(value)}
        self.filled |= dict.fromkeys(full)
        for shape in SHAPES:
            if found := best(shape.main, full):
                found |= best(shape.beside, full.keys() - found.values())
                given = {name: full[column] for name, column in found.items()}
                if content := usable(partial(shape.read, **given)):
                    self.taken.update(found.values())
                    return content
        return ""


def holds(value: object) -> bool:
    """Whether a value is neither null nor empty."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, float):
        return not math.isnan(value)  # pandas' null
    return bool(value) if isinstance(value, list | dict) else value is not None


def best(columns: Columns, there: Any) -> dict[str, str]:
    """Argument -> the first of its columns that is `there`."""
    firsts = {name: next((c for c in some if c in there), None) for name, some in columns.items()}
    return {name: column for name, column in firsts.items() if column is not None}


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
        return Unusable(INVALID)
    except RecursionError:
        return Unusable("a value nested too deep")
    return content


def from_text(text: object) -> Content:
    """Plain text, its paragraphs as a list, or a conversation in the column of that name."""
    if isinstance(text, list):
        paragraphs = [part for part in text if isinstance(part, str)]
        return "\n\n".join(paragraphs) if len(paragraphs) == len(text) else turns_of(text)
    return text_of(text)


def from_messages(messages: object, **beside: object) -> Content:
    """A conversation, as a list or as the JSON text of one."""
    return conversation(turns_of(messages), **beside)


def from_pair(
    asked: object = "", answer: object = "", context: object = "", **beside: object
) -> Content:
    """What is asked, with its context, if any, and the answer; an answer alone is plain text.

    The answer may be a conversation that opens with the question.
    """
    if not asked and isinstance(answer, str):
        return answer
    if isinstance(asked, str) and isinstance(context, str):
        asked, context = "\n\n".join(filter(None, (asked, context))), ""
    question = [*as_turns(asked, "user"), *as_turns(context, "user")]
    turns = as_turns(answer, "assistant")
    if turns[: len(question)] == question:
        question = []
    return conversation([*question, *turns], **beside)


def conversation(
    turns: Messages, system: object = "", history: object = (), tools: object = ()
) -> Content:
    """Turns with what other columns say of them: a system message, earlier turns, tools."""
    if not turns:
        return []
    head = turns[:1] if turns[0]["role"] == "system" else []
    if system:
        message = {"role": "system", "content": text_of(system)}
        if head not in ([], [message]):
            raise NotMessages("a system message beside another in the column system")
        turns, head = [message, *turns[len(head) :]], [message]
    past = history_of(history) if history else []
    messages = [*head, *past, *turns[len(head) :]]
    offered = tools_of(tools) if tools else []
    return Conversation(messages, offered) if offered else messages


BESIDE: Columns = {
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "tools": ("tools",),
}
SHAPES = (
    Shape({"messages": ("messages", "conversations", "conversation")}, BESIDE, from_messages),
    Shape({"text": ("text",)}, {}, from_text),
    Shape(
        {
            "asked": ("instruction", "prompt", "question", "query", "input"),
            "answer": ("completion", "response", "output", "chosen", "answer"),
        },
        {"context": ("input", "context"), **BESIDE},
        from_pair,
    ),
)
"""The first that has something to read is taken."""

MAIN = {column for shape in SHAPES for some in shape.main.values() for column in some}
KNOWN = MAIN | {c for shape in SHAPES for some in shape.beside.values() for c in some}
