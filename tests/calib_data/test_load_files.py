"""load() of a file: how documents are parted, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import load
from calib_data.document import Unusable
from calib_data.files import SPACED, read_file
from calib_data.records import content_of_row
from runtime.errors import UnsupportedError
from tests.calib_data.small_texts import ByteTokenizer, refused, texts


def test_text_is_parted_by_percent_lines(write: Any) -> None:
    one, two = texts(2)
    windows = load(write("a.txt", f"{one}\n%%\n\n\n{two}\n"), ByteTokenizer(), 0, 41)
    assert windows.documents == 2
    row = bytes(windows.ids[0].clip(0, 255).astype(np.uint8))
    assert sorted(row.split(b"\xff")) == sorted([one.encode(), two.encode()])
    assert windows.ids[0][20] == 257  # the separator stands between them


def test_text_without_percent_lines_is_parted_by_two_blank_lines(write: Any) -> None:
    path = write("a.txt", "first one\n\nstill first\r\n \r\n\t\r\n\r\nsecond one\n")
    assert list(read_file(Path(path))) == ["first one\n\nstill first", "second one"]


def test_text_without_either_is_one_document(write: Any) -> None:
    assert list(read_file(Path(write("a.TXT", "\ufeffone\n\nand all\n")))) == ["one\n\nand all"]


def test_indentation_of_a_documents_first_line_is_kept(write: Any) -> None:
    assert list(read_file(Path(write("a.txt", "    x = 1\n%%  \n  y = 2")))) == [
        "    x = 1",
        "  y = 2",
    ]
    assert not SPACED.search("a\n\nb")


def test_jsonl_takes_text_and_renders_messages(write: Any) -> None:
    messages = [{"role": "user", "content": "What is a hash?"}]
    for record, first in (
        ({"text": "Just some text here"}, ord("J")),
        ({"messages": messages}, 256),
    ):
        windows = load(write("a.jsonl", json.dumps(record)), ByteTokenizer(), 1, 16)
        assert windows.ids[0, 0] == first
        assert windows.domains == ("user",)


@pytest.mark.parametrize("column", ["text", "messages"])
def test_parquet_gives_the_windows_of_the_same_jsonl(
    column: str, write: Any, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values: list[Any] = [*texts(9), None]
    if column == "messages":
        # parquet gives every turn every key, so `name` comes back as null where it was absent
        values = [[{"role": "user", "content": text}] for text in texts(9)] + [None]
        values[0].append({"role": "tool", "content": "42", "name": "sum"})
    parquet.write_table(arrow.table({"id": [*range(10)], column: values}), tmp_path / "a.parquet")
    lines = "\n".join(json.dumps({column: value}) for value in values)
    from_parquet = load(str(tmp_path / "a.parquet"), ByteTokenizer(), 0, 20)
    from_jsonl = load(write("a.jsonl", lines), ByteTokenizer(), 0, 20)
    assert from_parquet.sha256 == from_jsonl.sha256
    assert from_parquet.dropped == from_jsonl.dropped
    assert from_parquet.dropped[0] == (1, "empty document")


def test_a_file_of_one_document_is_always_there_to_calibrate_with(write: Any) -> None:
    path = write("a.txt", texts(1, "heldout")[0])
    assert load(path, ByteTokenizer(), 1, 20).documents == 1
    assert refused(path, ByteTokenizer(), 1, 20, part="heldout") == (
        f"The held-out part of {path} has no text to use: add documents or use builtin."
    )


def test_all_of_a_file_is_both_parts_together(write: Any) -> None:
    path = write("a.txt", "\n%%\n".join([*texts(3), *texts(2, "heldout")]))
    parts = [
        load(path, ByteTokenizer(), 0, 20, part=p).documents for p in ("calibration", "heldout")
    ]
    assert parts == [3, 2]
    assert load(path, ByteTokenizer(), 0, 20, part="all").documents == 5


def test_missing_file_is_refused_with_the_specs_there_are() -> None:
    assert refused("/nowhere/wiki", ByteTokenizer(), 1, 32) == (
        "There is no calibration text /nowhere/wiki: give a .txt, .json, .jsonl, .parquet file, "
        "builtin, builtin:DOMAIN,DOMAIN, hub:DATASET or self."
    )


def test_unknown_ending_and_folder_are_refused(write: Any, tmp_path: Path) -> None:
    for path in (write("a.csv", "text"), str(tmp_path)):
        assert refused(path, ByteTokenizer(), 1, 32) == (
            f"{path} is not a file ending in .txt, .json, .jsonl, .parquet: convert it to one."
        )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes"),
        ('{"text": "\xff"}', "is not JSON ('utf-8' codec can't decode byte 0xff"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line: str, complaint: str, write: Any) -> None:
    path = write("a.jsonl", b'{"text": "fine"}\n\n' + line.encode("latin-1") + b"\n")
    assert refused(path, ByteTokenizer(), 1, 8).startswith(f"{path} line 3 {complaint}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "a row that is no object"),
        ("3", "a row that is no object"),
        ('{"body": "x", "id": 3}', "neither text nor messages"),
        ("{}", "neither text nor messages"),
    ],
)
def test_a_row_of_another_kind_is_dropped_and_counted(line: str, reason: str, write: Any) -> None:
    path = write("a.jsonl", f'{{"text": "fine and long enough"}}\n{line}\n{line}\n')
    found = load(path, ByteTokenizer(), 1, 8)
    assert found.documents == 1
    assert (2, reason) in found.dropped


def test_a_file_without_any_known_column_is_refused_with_those_it_has(write: Any) -> None:
    path = write("a.jsonl", '{"body": "x", "id": 3}\n{}\n')
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} line 1 has body, id, but neither text nor messages: "
        "rename the one that holds the documents."
    )


@pytest.mark.parametrize("form", ["list", "indented", "lines", "byte order mark"])
def test_a_json_file_is_a_list_of_rows_or_lines(form: str, write: Any) -> None:
    rows = [{"instruction": f"Say number {n}.", "input": "", "output": "Yes"} for n in range(4)]
    text = "\n".join(map(json.dumps, rows))
    if form != "lines":
        text = json.dumps(rows, indent=1 if form == "indented" else None)
    path = write("a.json", text.encode("utf-8-sig" if form == "byte order mark" else "utf-8"))
    lines = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    found, expected = load(path, ByteTokenizer(), 1, 64), load(lines, ByteTokenizer(), 1, 64)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.documents > 1


def test_text_that_is_not_utf8_is_refused_with_the_byte(write: Any) -> None:
    path = write("a.txt", b"abc\xff")
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} is not UTF-8 text (byte 3): save it as UTF-8."
    )


def test_a_file_that_cannot_be_opened_is_refused(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write("a.txt", "abc")
    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} could not be read (Permission denied): check its permissions."
    )


def test_unreadable_parquet_and_one_without_text_are_refused(write: Any, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write("a.parquet", b"not parquet at all")
    assert refused(path, ByteTokenizer(), 1, 8).startswith(f"{path} is not a readable parquet")
    parquet.write_table(arrow.table({"body": ["x"]}), tmp_path / "b.parquet")
    assert refused(str(tmp_path / "b.parquet"), ByteTokenizer(), 1, 8) == (
        f"{tmp_path / 'b.parquet'} has body, but neither text nor messages: "
        "rename the one that holds the documents."
    )
    parquet.write_table(arrow.table({"text": [1]}), tmp_path / "c.parquet")
    assert "c.parquet has no text to use (1 int where text belongs)" in refused(
        str(tmp_path / "c.parquet"), ByteTokenizer(), 1, 8
    )


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
        ({"text": "\ud800"}, "an unpaired surrogate, which no tokenizer reads"),
    ],
)
def test_a_row_is_read_in_every_usual_shape_or_says_why_not(row: Any, turns: Any) -> None:
    found = content_of_row(row, "here")
    if isinstance(turns, str) and turns != SAID:
        assert found == Unusable(turns)
    else:
        assert found == turns


def test_a_row_that_cannot_be_read_is_dropped_and_counted(write: Any) -> None:
    rows = [{"messages": TURNS}, {"messages": [{"role": "user"}]}, {"messages": TURNS[:1]}]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    found = load(path, ByteTokenizer(), 2, 16)
    assert found.rows == 2
    assert (1, "a message without content") in found.dropped


def test_a_missing_extra_is_named(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert refused(write("a.parquet", b""), ByteTokenizer(), 1, 8, kind=UnsupportedError) == (
        "Reading a .parquet file needs pyarrow: pip install 'edgequant[data]'."
    )
