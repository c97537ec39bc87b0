"""Rows of data sets in the shapes that people have them in."""

import json
from typing import Any

import pytest

from calib_data import load
from calib_data.document import Conversation, Unusable, document, shown
from calib_data.records import RowReader
from tests.calib_data.small_texts import ByteTokenizer

SAID = "A river ran past the old mill that night."
ANSWER = "Then the children counted stones."
TURNS = [{"role": "user", "content": SAID}, {"role": "assistant", "content": ANSWER}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": TURNS}, TURNS),
        ({"messages": json.dumps(TURNS)}, TURNS),
        ({"text": None, "messages": TURNS}, TURNS),
        ({"text": SAID, "messages": None}, SAID),
        (
            {"conversations": [{"from": "human", "value": SAID}, {"from": "gpt", "value": ANSWER}]},
            TURNS,
        ),
        ({"prompt": SAID, "completion": ANSWER}, TURNS),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, TURNS),
        ({"instruction": SAID, "input": "", "output": ANSWER}, TURNS),
        (
            {"instruction": SAID, "input": "Why?", "output": ANSWER},
            [{"role": "user", "content": f"{SAID}\n\nWhy?"}, TURNS[1]],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": SAID}]}, TURNS[1]]},
            TURNS,
        ),
        ({"messages": [TURNS[0] | {"weight": 1}]}, [TURNS[0] | {"weight": 1}]),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
            [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}],
        ),
        ({"messages": [{"role": "user"}]}, "a message without content"),
        ({"messages": [{"content": "x"}]}, "a message without a role"),
        ({"messages": ["hi"]}, "a message that is no object"),
        ({"messages": 3}, "messages that are no list"),
        ({"messages": "hello"}, "messages that are text, but not JSON"),
        ({"messages": [{"role": "user", "content": 3}]}, "int where text belongs"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "content with a part that is no text (image)",
        ),
        ({"text": "\ud800"}, "text that is not valid Unicode"),
    ],
)
def test_a_row_is_read_in_every_usual_shape_or_says_why_not(row: Any, turns: Any) -> None:
    found = RowReader().read(row, "here")
    if isinstance(turns, str) and turns != SAID:
        assert found == Unusable(turns)
    else:
        assert found == turns


SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
NAMED = {"name": "f", "arguments": {}}
CALLING = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": NAMED}],
}
SHARED = [{"from": "Human", "value": SAID}, {"from": "GPT", "value": ANSWER}]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (
            {"instruction": SAID, "context": "Mills.", "response": ANSWER},
            [{"role": "user", "content": f"{SAID}\n\nMills."}, TURNS[1]],
        ),
        ({"prompt": SAID, "chosen": ANSWER, "rejected": "No."}, TURNS),
        ({"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": []}, TURNS),
        ({"prompt": SAID, "chosen": TURNS, "rejected": TURNS}, TURNS),
        ({"prompt": TURNS[:1], "context": "Why?"}, [TURNS[0], {"role": "user", "content": "Why?"}]),
        ({"system": "Be brief.", "conversations": SHARED}, [SYSTEM, *TURNS]),
        ({"system": "Be brief.", "messages": [SYSTEM, *TURNS]}, [SYSTEM, *TURNS]),
        (
            {"system": "Be long.", "messages": [SYSTEM, *TURNS]},
            "a system message beside another in the column system",
        ),
        (
            {"system_prompt": "Be brief.", "question": SAID, "response": ANSWER},
            [SYSTEM, *TURNS],
        ),
        (
            {
                "instruction": SAID,
                "output": ANSWER,
                "system": "Be brief.",
                "history": [["Hi", "Hello"]],
            },
            [SYSTEM, *EARLIER, *TURNS],
        ),
        (
            {"history": json.dumps(EARLIER), "messages": [SYSTEM, *TURNS]},
            [SYSTEM, *EARLIER, *TURNS],
        ),
        ({"history": "Hi", "messages": TURNS}, "histories that are text, but not JSON"),
        ({"history": [3], "messages": TURNS}, "a history of neither pairs nor messages"),
        ({"messages": TURNS, "tools": [TOOL]}, Conversation(TURNS, [TOOL])),
        ({"messages": TURNS, "tools": json.dumps([TOOL])}, Conversation(TURNS, [TOOL])),
        ({"messages": TURNS, "tools": [TOOL | {"strict": None}]}, Conversation(TURNS, [TOOL])),
        ({"prompt": SAID, "completion": ANSWER, "tools": [TOOL]}, Conversation(TURNS, [TOOL])),
        ({"messages": TURNS, "tools": "[]"}, TURNS),
        ({"messages": TURNS, "tools": "f"}, "tools that are text, but not JSON"),
        ({"messages": TURNS, "tools": ["f"]}, "tools that are no list of objects"),
        ({"messages": [{"role": "User", "content": SAID}, TURNS[1]]}, TURNS),
        ({"messages": [TURNS[0] | {"role": "observation"}]}, [TURNS[0] | {"role": "observation"}]),
        (
            {"conversation": [{"from": "Function", "value": "4"}]},
            [{"role": "tool", "content": "4"}],
        ),
        (
            {"conversations": [{"from": "Ann", "value": "Hi"}]},
            "a message of a speaker other than human, gpt, system and tool",
        ),
        (
            {"messages": [turn | {"from": "x", "value": None} for turn in TURNS]},
            TURNS,
        ),
        (
            {"messages": [{"role": "user", "content": None, "from": "human", "value": SAID}]},
            TURNS[:1],
        ),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": "", "function_call": NAMED}]},
            [TURNS[0], CALLING],
        ),
        ({"messages": [{"from": "function_call", "value": json.dumps(NAMED)}]}, [CALLING]),
        ({"messages": [{"from": "tool_call", "value": json.dumps([NAMED])}]}, [CALLING]),
        ({"messages": [TURNS[0] | {"function_call": {"name": None}}]}, TURNS[:1]),
        ({"messages": [{"from": "function_call", "value": "{}"}]}, "a call without a name"),
        ({"input": SAID, "output": ANSWER}, TURNS),
        ({"completion": SAID}, SAID),
        ({"chosen": TURNS, "rejected": TURNS}, TURNS),
        ({"messages": [], "text": SAID}, SAID),
        ({"messages": "[]", "text": SAID, "system": "Be brief."}, SAID),
        ({"text": " \n", "messages": None, "prompt": SAID, "completion": ANSWER}, TURNS),
        ({"text": float("nan"), "prompt": SAID, "completion": ANSWER}, TURNS),
        ({"text": ["A river", "ran past."]}, "A river\n\nran past."),
        ({"text": TURNS}, TURNS),
        ({"text": {"a": 1}}, "dict where text belongs"),
        ({"messages": None, "text": ""}, ""),
    ],
)
def test_every_column_that_says_something_is_read(row: Any, turns: Any) -> None:
    found = RowReader().read(row, "here")
    assert (found.reason if isinstance(found, Unusable) else found) == turns


def test_columns_that_no_row_was_read_from_are_named_once(write: Any) -> None:
    rows = [
        {"id": 1, "text": SAID, "prompt": "x", "label": None, "source": ""},
        {"id": 2, "score": 0.0, "prompt": SAID, "chosen": ANSWER, "rejected": "No."},
        {"text": TURNS, "odd\n\ud800": 1},
    ]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    found = load(path, ByteTokenizer(), 1, 16, part="all")
    assert found.left_out == (r"all text: columns not read: id, score, rejected, odd\n\ud800",)
    assert found.summary().endswith(r"; columns not read: id, score, rejected, odd\n\ud800")


def test_many_columns_are_named_in_part() -> None:
    assert shown(map(str, range(25))).endswith("18, 19 and 5 more")
    assert shown("abc", 3) == "a, b, c"


def test_tools_go_to_the_template_and_are_told_where_it_has_no_place_for_them(write: Any) -> None:
    path = write("a.jsonl", json.dumps({"messages": TURNS, "tools": [TOOL]}))
    shows = load(path, ByteTokenizer(tools=True), 1, 100)
    assert bytes(shows.ids[0, 1:].clip(0, 255).astype("u1")).startswith(json.dumps([TOOL]).encode())
    assert shows.left_out == ()
    assert load(path, ByteTokenizer(), 1, 60).left_out == (
        "calibration text: the chat template has no place for the tools of 1 conversations",
    )


def test_tools_are_part_of_what_a_document_is() -> None:
    digests = {document(content).digest for content in (TURNS, Conversation(TURNS, [TOOL]))}
    assert len(digests) == 2


def test_a_value_nested_too_deep_is_unusable() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    row = {"messages": [TURNS[0] | {"extra": deep}]}
    assert RowReader().read(row, "here") == Unusable("a value nested too deep")
