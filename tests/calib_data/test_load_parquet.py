"""load() of a .parquet file."""

import json
from pathlib import Path
from typing import Any

import pytest

from calib_data import load
from calib_data.document import Unusable
from calib_data.files import read_file
from tests.calib_data.small_texts import ByteTokenizer, refused, texts

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("column", ["text", "messages"])
def test_parquet_gives_the_windows_of_the_same_jsonl(
    column: str, write: Any, tmp_path: Path
) -> None:
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


def test_unreadable_parquet_and_one_without_text_are_refused(write: Any, tmp_path: Path) -> None:
    path = write("a.parquet", b"not parquet at all")
    assert refused(path, ByteTokenizer(), 1, 8).startswith(f"{path} is not a readable parquet")
    parquet.write_table(arrow.table({"body": ["x"]}), tmp_path / "b.parquet")
    assert refused(str(tmp_path / "b.parquet"), ByteTokenizer(), 1, 8) == (
        f"{tmp_path / 'b.parquet'} has body, but neither text nor messages: "
        "rename the one that holds the documents."
    )
    parquet.write_table(arrow.table({"text": [1]}), tmp_path / "c.parquet")
    assert "c.parquet has no text to use (1 row not read: int where text belongs)" in refused(
        str(tmp_path / "c.parquet"), ByteTokenizer(), 1, 8
    )


def test_a_damaged_parquet_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": texts(80)}), path)
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xaa" * 300
    path.write_bytes(data)
    problem = refused(str(path), ByteTokenizer(), 1, 8)
    assert problem.startswith(f"{path} is not a readable parquet file (")
    assert problem.endswith("): write it again.")


@pytest.mark.parametrize("form", ["text", "messages"])
def test_a_value_that_is_not_utf8_costs_its_row_alone(form: str, tmp_path: Path) -> None:
    good = [*texts(9)]
    values = arrow.array([*(text.encode() for text in good), b"\xff\xfe" * 20]).view(arrow.string())
    if form == "messages":
        roles = arrow.array(["user"] * 10)
        turns = arrow.StructArray.from_arrays([roles, values], ["role", "content"])
        values = arrow.ListArray.from_arrays(list(range(11)), turns)
    parquet.write_table(arrow.table({form: values}), tmp_path / "a.parquet")
    *found, last = read_file(tmp_path / "a.parquet")
    assert last == Unusable("text that is not valid Unicode")
    assert [item if form == "text" else item[0]["content"] for item in found] == good


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    columns = {"id": [*range(9)], "text": texts(9), "score": [0.5] * 9}
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    found = load(str(tmp_path / "a.parquet"), ByteTokenizer(), 1, 20)
    assert found.left_out == ("calibration text: columns not read: id, score",)
