"""load() of a dataset of the hub, streamed."""

import sys
from typing import Any

import pytest

from calib_data import load
from runtime.errors import UnsupportedError
from tests.calib_data.small_texts import ByteTokenizer, refused, sentences, texts


@pytest.mark.parametrize(
    ("spec", "name", "config", "split", "column"),
    [
        ("hub:org/set", "org/set", None, "train", "text"),
        ("hub:set:en", "set", "en", "train", "text"),
        ("hub:set::test", "set", None, "test", "text"),
        ("hub:set:en:test:body", "set", "en", "test", "body"),
        ("hub:set::", "set", None, "train", "messages"),
    ],
)
def test_hub_streams_the_dataset_the_spec_names(
    hub: dict[str, Any], spec: str, name: str, config: str | None, split: str, column: str
) -> None:
    hub["rows"] = [{"id": 1, column: text} for text in texts(4)]
    if column == "messages":
        hub["rows"] = [{"id": 1, column: [{"role": "user", "content": text}]} for text in texts(4)]
    windows = load(spec, ByteTokenizer(), 2, 20)
    assert hub["call"] == ((name, config), {"split": split, "streaming": True})
    assert windows.domains == ("user", "user")
    # a column that the spec names is all that is asked for
    told = "calibration text: columns not read: id"
    assert windows.left_out == (() if spec.endswith("body") else (told,))


def test_hub_stops_reading_when_there_is_enough(hub: dict[str, Any]) -> None:
    hub["rows"] = [{"text": text} for text in texts(400)]
    load("hub:set", ByteTokenizer(), 2, 20)
    assert hub["read"] == 2 * 20 * 16 // 20


def test_hub_parts_share_nothing(hub: dict[str, Any]) -> None:
    hub["rows"] = [{"text": text} for text in [*texts(9), *texts(9, "heldout")]]
    tokenizer = ByteTokenizer()
    tokenizer.separator = None
    assert sentences(load("hub:a", tokenizer, 9, 20)) == {text.encode() for text in texts(9)}
    assert sentences(load("hub:a", tokenizer, 9, 20, part="heldout")) == {
        text.encode() for text in texts(9, "heldout")
    }


def test_a_stream_without_end_needs_rows(hub: dict[str, Any]) -> None:
    assert refused("hub:a", ByteTokenizer(), 0, 8) == (
        "hub:a is streamed and may have no end: name the rows, such as --calib-rows 128."
    )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused("hub:set", ByteTokenizer(), 1, 8, kind=UnsupportedError) == (
        "Reading hub:set needs datasets: pip install 'edgequant[data]'."
    )


def test_hub_errors_say_what_is_wrong(hub: dict[str, Any]) -> None:
    for spec in ("hub:", "hub", "hub:a:b:c:d:e"):
        assert refused(spec, ByteTokenizer(), 1, 8) == (
            f"{spec} does not read as hub:DATASET[:config[:split[:column]]]."
        )
    hub["rows"] = [{"body": "x", "id": 1}]
    assert refused("hub:a:::content", ByteTokenizer(), 1, 8) == (
        "hub:a:::content has no column 'content', only body, id: name one of them."
    )
    assert refused("hub:a", ByteTokenizer(), 1, 8).startswith("hub:a row 1 has body, id, but")
    hub["rows"] = FileNotFoundError("Dataset 'a' doesn't exist.\nMore lines.")
    assert refused("hub:a", ByteTokenizer(), 1, 8) == (
        "hub:a could not be read (Dataset 'a' doesn't exist): check its name and the network."
    )
