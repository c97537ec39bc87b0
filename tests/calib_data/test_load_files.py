"""load() of a file: how documents are parted, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_data import load
from calib_data.files import SPACED, read_file
from calib_data.records import RowReader
from runtime.errors import UnsupportedError
from tests.calib_data.small_texts import ByteTokenizer, refused, texts

SAID = "A river ran past the old mill that night."
TURNS = [{"role": "user", "content": SAID}, {"role": "assistant", "content": "It was cold."}]


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
    ("line", "reason"),
    [
        ('{"text": "cut', "not JSON (Unterminated string starting at)"),
        ("[" * 100_000, "nested too deep"),
        ('{"text": "caf\xe9 au lait"}', "text that is not valid Unicode"),
    ],
)
def test_a_bad_line_is_dropped_and_counted_and_alone_it_is_refused(
    line: str, reason: str, write: Any
) -> None:
    bad = line.encode("latin-1")
    found = load(
        write("a.jsonl", b'{"text": "fine and long enough"}\n' + bad), ByteTokenizer(), 1, 8
    )
    assert found.dropped[0] == (1, f"row not read: {reason}")
    assert found.left_out == (f"calibration text: 1 rows left out, {reason}",)
    assert reason in refused(write("b.jsonl", bad), ByteTokenizer(), 1, 8)


def test_lines_that_are_no_json_are_refused_with_the_first(write: Any) -> None:
    path = write("a.jsonl", '{\n "text": "printed over lines"\n}\n')
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} line 1 is not JSON (Expecting property name enclosed in double quotes): "
        "put one JSON object on each line, or a list of them into a .json file."
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_what_is_wrong_in_a_column_that_is_not_read_costs_no_row(name: str, write: Any) -> None:
    row = b'{"text": "fine and long enough", "id": ' + b"9" * 5000 + b', "by": "Andr\xe9"}'
    found = load(write(name, b"[%b]" % row if name == "a.json" else row), ByteTokenizer(), 1, 8)
    assert found.left_out == ("calibration text: columns not read: id, by",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "row not read: not an object"),
        ("3", "row not read: not an object"),
        ('{"body": "x", "id": 3}', "row not read: neither text nor messages"),
        ("{}", "row not read: neither text nor messages"),
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


@pytest.mark.parametrize("wrapper", ["data", "rows", "train"])
def test_a_json_file_may_keep_its_rows_in_an_object(wrapper: str, write: Any) -> None:
    rows = [{"text": text} for text in texts(3)]
    path = Path(write("a.json", json.dumps({"version": "1.0", wrapper: rows}, indent=1)))
    reader = RowReader()
    assert list(read_file(path, reader)) == texts(3)
    assert reader.unread == ("version",)


@pytest.mark.parametrize(
    ("value", "contents"),
    [
        ({"text": SAID}, [SAID]),
        ({"text": SAID, "data": [1]}, [SAID]),
        ({"text": [SAID, "It was cold."]}, [f"{SAID}\n\nIt was cold."]),
        ({"messages": TURNS}, [TURNS]),
        ({"text": {"0": SAID, "1": None}, "id": {"0": 1, "1": 2}}, [SAID, ""]),
        ([SAID, "It was cold."], [SAID, "It was cold."]),
    ],
)
def test_a_json_file_is_one_row_or_a_list_of_texts(
    value: Any, contents: list[Any], write: Any
) -> None:
    for indent in (None, 2):
        path = write("a.json", json.dumps(value, indent=indent))
        assert list(read_file(Path(path))) == contents


def test_a_cut_json_list_is_refused(write: Any) -> None:
    path = write("a.json", '[{"text": "fine"}, {"te')
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} is not JSON (Unterminated string starting at): write it again."
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_another_encoding_is_named(name: str, encoding: str, write: Any) -> None:
    path = write(name, '{"text": "x"}\n'.encode(encoding))
    assert refused(path, ByteTokenizer(), 1, 8) == (
        f"{path} is {encoding[:6].upper()} text: save it as UTF-8."
    )


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


def test_a_row_that_cannot_be_read_is_dropped_and_counted(write: Any) -> None:
    rows = [{"messages": TURNS}, {"messages": [{"role": "user"}]}, {"messages": TURNS[:1]}]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    found = load(path, ByteTokenizer(), 2, 16)
    assert found.rows == 2
    assert (1, "row not read: a message without content") in found.dropped


def test_a_missing_extra_is_named(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert refused(write("a.parquet", b""), ByteTokenizer(), 1, 8, kind=UnsupportedError) == (
        "Reading a .parquet file needs pyarrow: pip install 'edgequant[data]'."
    )


def test_of_a_long_text_no_more_is_tokenized_than_is_wanted(write: Any, tiny: Any) -> None:
    text = (SAID + " ") * 3_000
    longest = 0

    class Watched:
        separator = None
        tools = None

        def encode(self, part: str) -> list[int]:
            nonlocal longest
            longest = max(longest, len(part))
            return list(tiny.tokenizer.encode(part))

        def render(self, messages: Any, tools: Any = None) -> str:
            raise AssertionError

    windows = load(write("a.txt", text), Watched(), 2, 64)
    whole = tiny.tokenizer.encode(text)
    assert windows.ids.reshape(-1).tolist() == whole[: 2 * 64]
    assert longest < len(text) / 50
