"""load(): every source, what it drops, what it refuses, and that held-out text stays apart."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_data import CalibrationError, Windows, load, manifest, sources
from calib_data.document import Messages, document
from calib_data.files import SPACED, read_file
from calib_data.windows import allot

DOMAINS = ("prose", "chat", "code", "math", "tools", "languages")


class ByteTokenizer:
    """A token is a byte, except <|im_start|> (256) and the separator (257)."""

    separator: int | None = 257

    def __init__(self, template: bool = True) -> None:
        self.template = template

    def encode(self, text: str) -> list[int]:
        first, *others = text.split("<|im_start|>")
        ids = list(first.encode())
        for piece in others:
            ids += [256, *piece.encode()]
        return ids

    def render(self, messages: Messages) -> str:
        if not self.template:
            raise ValueError("the tokenizer has no chat template.")
        return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}\n" for turn in messages)


def sentences(windows: Windows) -> set[bytes]:
    """The documents in windows of one document each."""
    return {bytes(int(token) for token in row) for row in windows.ids}


def texts(count: int, part: str = "calibration") -> list[str]:
    """Different documents of 20 bytes that all fall in one part."""
    made: list[str] = []
    number = 0
    while len(made) < count:
        text = f"This is document {number:03d}"[-20:]
        number += 1
        if document(text).falls_in_heldout == (part == "heldout"):
            made.append(text)
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    def write_one(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_one


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small builtin: two domains of text and one of conversations."""
    folder = tmp_path / "bundle"
    (folder / "texts").mkdir(parents=True)
    monkeypatch.setattr(sources, "FOLDER", folder)
    (folder / "MANIFEST.toml").write_text("[mix]\nprose = 0.5\ncode = 0.25\nchat = 0.25\n")
    for domain, letter in (("prose", "p"), ("code", "c")):
        documents = [f"{letter}{number:03d}" * 8 for number in range(40)]  # 32 bytes each
        (folder / "texts" / f"{domain}.all.txt").write_text("\n%%\n".join(documents))
    chats = [[{"role": "user", "content": f"h{number:03d}" * 6}] for number in range(20)]
    lines = [json.dumps({"messages": messages}) for messages in chats]
    (folder / "texts" / "chat.all.jsonl").write_text("\n".join(lines))
    manifest.main()
    return folder


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CalibrationError) as caught:
        load(*args, **kwargs)
    message = str(caught.value)
    assert message[-1] in ".'" or message.endswith("}.")
    assert "\n" not in message
    return message


# --- files -----------------------------------------------------------------------------------


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


def test_dropped_counts_are_exact(write: Any) -> None:
    kept = texts(3)  # 20 bytes each, with two separators 62 tokens
    short = next(text for text in map(str, range(99)) if not document(text).falls_in_heldout)
    path = write("a.txt", "\n%%\n".join([*kept, "", kept[0], " ", kept[1], short]))
    windows = load(path, ByteTokenizer(), 0, 25)
    assert windows.dropped == (
        (2, "empty document"),
        (2, "duplicate document"),
        (1, "shorter than 8 tokens"),
        (12, "tokens left over after the last full window"),
    )
    assert (windows.rows, windows.tokens, windows.documents) == (2, 50, 3)


def test_documents_beyond_the_rows_asked_are_counted_and_not_tokenized(write: Any) -> None:
    class Counting(ByteTokenizer):
        calls = 0

        def encode(self, text: str) -> list[int]:
            self.calls += 1
            return super().encode(text)

    tokenizer = Counting()
    windows = load(write("a.txt", "\n%%\n".join(texts(30))), tokenizer, 2, 20)
    assert windows.dropped == ((28, "document not needed for the rows asked"),)
    assert (windows.documents, tokenizer.calls) == (2, 2)


def test_no_separator_puts_nothing_between_documents(write: Any) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.separator = None
    windows = load(write("a.txt", "\n%%\n".join(texts(5))), tokenizer, 0, 20)
    assert sentences(windows) == {text.encode() for text in texts(5)}
    assert windows.dropped == ()


def test_a_conversation_the_template_refuses_is_dropped_with_the_reason(write: Any) -> None:
    lines = [{"text": text} for text in texts(2)]
    lines.append({"messages": [{"role": "user", "content": "Hello there, good day"}]})
    path = write("a.jsonl", "\n".join(map(json.dumps, lines)))
    windows = load(path, ByteTokenizer(template=False), 0, 41)
    assert windows.dropped == (
        (1, "conversation not rendered: the tokenizer has no chat template"),
    )


# --- the arrays ------------------------------------------------------------------------------


def test_same_arguments_give_the_same_ids_and_another_seed_others(write: Any) -> None:
    path = write("a.txt", "\n%%\n".join(texts(30)))
    first, again, other = (load(path, ByteTokenizer(), 8, 20, seed) for seed in (0, 0, 1))
    assert first.ids.dtype == np.int32
    assert first.ids.shape == (8, 20)
    assert first.sha256 == again.sha256 != other.sha256
    assert first.sha256 == hashlib.sha256(first.ids.astype("<i4").tobytes()).hexdigest()


def test_summary_is_one_line_with_rows_domains_and_drops(write: Any) -> None:
    path = write("a.txt", "\n%%\n".join([*texts(3), ""]))
    assert load(path, ByteTokenizer(), 0, 25).summary() == (
        "calibration: 2 windows of 25 tokens from 3 documents (user 2); dropped: "
        "empty document (1), tokens left over after the last full window (12)"
    )


# --- builtin ---------------------------------------------------------------------------------


def test_builtin_spreads_rows_in_the_proportion_of_the_mix(bundle: Path) -> None:
    windows = load("builtin", ByteTokenizer(), 8, 32)
    assert {name: windows.domains.count(name) for name in set(windows.domains)} == {
        "prose": 4,
        "code": 2,
        "chat": 2,
    }


def test_a_row_never_mixes_domains(bundle: Path) -> None:
    letters = {"prose": b"p0123456789", "code": b"c0123456789", "chat": b"h0123456789user\n"}
    windows = load("builtin", ByteTokenizer(), 0, 32)
    for row, domain in zip(windows.ids, windows.domains, strict=True):
        assert set(row.tolist()) <= {*letters[domain], 256, 257}


def test_builtin_takes_only_the_domains_named(bundle: Path) -> None:
    assert set(load("builtin:code, chat", ByteTokenizer(), 6, 32).domains) == {"code", "chat"}


def test_a_domain_short_of_text_hands_its_rows_to_the_others_and_says_so(bundle: Path) -> None:
    every = load("builtin", ByteTokenizer(), 0, 32)
    windows = load("builtin", ByteTokenizer(), every.rows, 32)
    assert sorted(windows.domains) == sorted(every.domains)
    handed = [entry for entry in windows.dropped if "taken from other domains" in entry[1]]
    wanted = allot({"prose": 2, "code": 1, "chat": 1}, dict.fromkeys(DOMAINS, 999), every.rows)
    short = {name: wanted[name] - every.domains.count(name) for name in wanted}
    assert handed == [
        (count, f"rows {name} has no text for, taken from other domains")
        for name, count in short.items()
        if count > 0
    ]
    assert handed


def test_builtin_without_a_chat_template_fills_the_rows_from_text(bundle: Path) -> None:
    windows = load("builtin", ByteTokenizer(template=False), 8, 32)
    assert set(windows.domains) == {"prose", "code"}
    reasons = {reason for _, reason in windows.dropped}
    assert "conversation not rendered: the tokenizer has no chat template" in reasons
    assert "rows chat has no text for, taken from other domains" in reasons


def test_every_builtin_domain_has_a_held_out_document(bundle: Path) -> None:
    kept = texts(3)  # none of which falls in the held-out part by itself
    (bundle / "texts" / "code.all.txt").write_text("\n%%\n".join(kept))
    windows = load("builtin:code", ByteTokenizer(), 0, 20, part="heldout")
    smallest = min(kept, key=lambda text: document(text).digest)
    assert sentences(windows) == {smallest.encode()}
    others = load("builtin:code", ByteTokenizer(), 0, 41)
    assert others.documents == 2
    assert smallest.encode() not in bytes(others.ids[0].clip(0, 255).astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=6, max_size=6),
    capacity=st.lists(st.integers(0, 60), min_size=6, max_size=6),
    rows=st.integers(0, 400),
)
def test_allot_gives_exactly_the_rows_and_never_more_than_a_domain_has(
    weights: list[float], capacity: list[int], rows: int
) -> None:
    most = dict(zip(DOMAINS, capacity, strict=True))
    given_rows = allot(dict(zip(DOMAINS, weights, strict=True)), most, rows)
    assert sum(given_rows.values()) == min(rows, sum(capacity))
    assert all(0 <= count <= most[domain] for domain, count in given_rows.items())


# --- held-out and calibration ----------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), other=st.integers(0, 2**31), rows=st.integers(1, 6))
def test_held_out_and_calibration_share_no_document_whatever_the_seeds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, other: int, rows: int
) -> None:
    documents = [*texts(20), *texts(10, "heldout")]
    path = tmp_path_factory.mktemp("split") / "a.txt"
    path.write_text("\n%%\n".join(documents + documents[::3]))
    tokenizer = ByteTokenizer()
    tokenizer.separator = None
    ours = sentences(load(str(path), tokenizer, rows, 20, seed))
    theirs = sentences(load(str(path), tokenizer, rows, 20, other, part="heldout"))
    assert ours <= {text.encode() for text in texts(20)}
    assert theirs <= {text.encode() for text in texts(10, "heldout")}
    assert len(ours) == len(theirs) == rows


def test_the_split_follows_the_first_byte_of_the_sha256_of_the_text() -> None:
    for text in ("a", "b", "c", "Grüße", *texts(4), *texts(4, "heldout")):
        first = hashlib.sha256(text.encode()).digest()[0]
        assert document(text).falls_in_heldout == (first % 5 == 0)


def test_all_of_a_file_is_both_parts_together(write: Any) -> None:
    path = write("a.txt", "\n%%\n".join([*texts(3), *texts(2, "heldout")]))
    parts = [
        load(path, ByteTokenizer(), 0, 20, part=p).documents for p in ("calibration", "heldout")
    ]
    assert parts == [3, 2]
    assert load(path, ByteTokenizer(), 0, 20, part="all").documents == 5


def test_a_file_of_one_document_is_always_there_to_calibrate_with(write: Any) -> None:
    path = write("a.txt", texts(1, "heldout")[0])
    assert load(path, ByteTokenizer(), 1, 20).documents == 1
    assert refused(path, ByteTokenizer(), 1, 20, part="heldout") == (
        f"The held-out part of {path} has no text to use: add documents or use builtin."
    )


# --- sampled from the model ------------------------------------------------------------------


def sampler(end_early: bool = False) -> Callable[[int, int, int], list[list[int]]]:
    def generate(count: int, length: int, seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        longest = rng.integers(1, length, size=count) if end_early else [length] * count
        return [rng.integers(0, 256, size=size).tolist() for size in longest]

    return generate


@pytest.mark.parametrize("end_early", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_self_fills_the_rows_and_its_parts_share_nothing(seed: int, end_early: bool) -> None:
    asked: list[tuple[int, int, int]] = []
    generate = sampler(end_early)

    def recording(count: int, length: int, seed: int) -> list[list[int]]:
        asked.append((count, length, seed))
        return generate(count, length, seed)

    tokenizer = ByteTokenizer()
    ours = load("self", tokenizer, 6, 32, seed, generate=recording)
    theirs = load("self", tokenizer, 6, 32, seed, "heldout", generate=recording)
    assert ours.ids.shape == theirs.ids.shape == (6, 32)
    assert ours.domains == ("self",) * 6
    assert len({call[2] for call in asked}) == len(asked)  # never the same seed twice
    eights = [
        {bytes(row[at : at + 8].astype(np.uint8)) for row in part.ids for at in range(25)}
        for part in (ours, theirs)
    ]
    assert not eights[0] & eights[1]
    assert load("self", tokenizer, 6, 32, seed, generate=generate).sha256 == ours.sha256


def test_self_parts_share_nothing_even_when_the_model_repeats_itself() -> None:
    def generate(count: int, length: int, seed: int) -> list[list[int]]:
        return [[number] * length for number in range(100)]

    ours = load("self", ByteTokenizer(), 4, 16, generate=generate)
    theirs = load("self", ByteTokenizer(), 4, 16, part="heldout", generate=generate)
    assert not set(ours.ids.flat) & set(theirs.ids.flat) - {257}


def test_self_stops_asking_a_model_that_only_ends_early() -> None:
    calls: list[int] = []

    def generate(count: int, length: int, seed: int) -> list[list[int]]:
        calls.append(count)
        return [[1, 2]] * count

    assert refused("self", ByteTokenizer(), 2, 16, generate=generate) == (
        "self has no text to use (9 duplicate document, 1 shorter than 8 tokens): "
        "add text or use builtin."
    )
    assert calls == [10]  # a round that brings nothing is not repeated


def test_self_gives_up_on_a_model_that_brings_too_little_and_says_what_came() -> None:
    calls: list[int] = []

    def generate(count: int, length: int, seed: int) -> list[list[int]]:
        calls.append(seed)
        return [[*range(30), len(calls), number] for number in range(8)]

    message = refused("self", ByteTokenizer(), 900, 32, generate=generate)
    assert message.startswith("self has ")
    assert "windows of 32 tokens; 900 were asked" in message
    assert len(calls) == sources.SELF_ROUNDS


# --- hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A fake `datasets` whose answer is hub["rows"] and whose last call is hub["call"]."""
    state: dict[str, Any] = {"rows": [], "read": 0}

    def load_dataset(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        state["call"] = (args, kwargs)
        if isinstance(state["rows"], Exception):
            raise state["rows"]
        return stream()

    def stream() -> Iterator[dict[str, Any]]:
        for row in state["rows"]:
            state["read"] += 1
            yield row

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return state


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
        hub["rows"] = [{column: [{"role": "user", "content": text}]} for text in texts(4)]
    windows = load(spec, ByteTokenizer(), 2, 20)
    assert hub["call"] == ((name, config), {"split": split, "streaming": True})
    assert windows.domains == ("user", "user")


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


# --- what is refused, word for word ----------------------------------------------------------


def test_unknown_domain_is_refused_with_the_domains_there_are(bundle: Path) -> None:
    assert refused("builtin:code,poetry", ByteTokenizer(), 1, 32) == (
        "builtin has no domain 'poetry': choose from prose, code, chat."
    )


def test_missing_file_is_refused_with_the_specs_there_are() -> None:
    assert refused("/nowhere/wiki", ByteTokenizer(), 1, 32) == (
        "There is no calibration text /nowhere/wiki: give a .txt, .jsonl, .parquet file, "
        "builtin, builtin:DOMAIN,DOMAIN, hub:DATASET or self."
    )


def test_unknown_ending_and_folder_are_refused(write: Any, tmp_path: Path) -> None:
    for path in (write("a.csv", "text"), str(tmp_path)):
        assert refused(path, ByteTokenizer(), 1, 32) == (
            f"{path} is not a file ending in .txt, .jsonl, .parquet: convert it to one."
        )


def test_empty_text_is_refused_with_what_was_dropped(write: Any) -> None:
    path = write("a.txt", "\n \n%%\n")
    assert refused(path, ByteTokenizer(), 1, 32) == (
        f"{path} has no text to use (2 empty document): add text or use builtin."
    )
    chat = write("a.jsonl", json.dumps({"messages": [{"role": "user", "content": "Hello"}]}))
    assert refused(chat, ByteTokenizer(template=False), 1, 32) == (
        f"{chat} has no text to use (1 conversation not rendered: the tokenizer has no chat "
        "template): add text or use builtin."
    )


def test_too_few_windows_are_refused_with_the_number_there_is(write: Any) -> None:
    path = write("a.txt", "\n%%\n".join([*texts(3), *texts(3, "heldout")]))  # 62 tokens each
    tokenizer = ByteTokenizer()
    assert refused(path, tokenizer, 9, 20) == (
        f"{path} has 3 windows of 20 tokens; 9 were asked. "
        "Use --calib-rows 3, a shorter --calib-length, or add text."
    )
    assert refused(path, tokenizer, 9, 50, part="heldout") == (
        f"The held-out part of {path} has 1 window of 50 tokens; 9 were asked. "
        "Use --eval-rows 1, a shorter --eval-length, or add text."
    )
    assert refused(path, tokenizer, 0, 512) == (
        f"{path} has 0 windows of 512 tokens; at least one is needed. "
        "Use a shorter --calib-length, or add text."
    )


def test_builtin_short_of_all_windows_is_refused(bundle: Path) -> None:
    there = load("builtin", ByteTokenizer(), 0, 32).rows
    assert refused("builtin", ByteTokenizer(), 400, 32).startswith(
        f"builtin has {there} windows of 32 tokens; 400 were asked. Use --calib-rows {there}, "
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes"),
        ('{"text": "\xff"}', "is not JSON ('utf-8' codec can't decode byte 0xff"),
        ("[1]", 'is not an object: write {"text": ...}.'),
        ('{"body": "x", "id": 3}', "has body, id, but neither text nor messages: rename"),
        ("{}", "has nothing, but neither text nor messages: rename"),
        ('{"text": 7}', "is neither text nor messages: every message needs a role and content"),
        ('{"messages": ["hi"]}', "is neither text nor messages: every message needs"),
        ('{"messages": [{"role": "user"}]}', "is neither text nor messages: every message"),
        (
            '{"messages": [{"role": "user", "content": "x", "tool_calls": []}]}',
            "is neither text nor messages: every message needs a role and content, and strings",
        ),
        ('{"text": "\\ud800"}', "holds half a surrogate pair, which no tokenizer reads: delete"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line: str, complaint: str, write: Any) -> None:
    path = write("a.jsonl", b'{"text": "fine"}\n\n' + line.encode("latin-1") + b"\n")
    assert refused(path, ByteTokenizer(), 1, 8).startswith(f"{path} line 3 {complaint}")


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
    assert "c.parquet row 1 is neither text" in refused(
        str(tmp_path / "c.parquet"), ByteTokenizer(), 1, 8
    )


def test_a_missing_extra_is_named(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    assert refused(write("a.parquet", b""), ByteTokenizer(), 1, 8) == (
        "Reading a .parquet file needs pyarrow: pip install 'edgequant[data]'."
    )
    assert refused("hub:set", ByteTokenizer(), 1, 8) == (
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


def test_sources_without_end_need_rows(hub: dict[str, Any]) -> None:
    assert refused("hub:a", ByteTokenizer(), 0, 8) == (
        "hub:a is streamed and may have no end: name the rows, such as --calib-rows 128."
    )
    assert refused("self", ByteTokenizer(), 0, 8, generate=sampler()) == (
        "self is sampled without end: name the rows, such as --calib-rows 128."
    )


def test_self_without_a_model_is_refused() -> None:
    assert refused("self", ByteTokenizer(), 1, 8) == (
        "self samples its text from the model and none was given: use builtin or a file."
    )


def test_numbers_and_parts_that_mean_nothing_are_refused() -> None:
    assert refused("builtin", ByteTokenizer(), -1, 8) == (
        "--calib-rows -1 is below 0: give a count, or 0 for all."
    )
    assert refused("builtin", ByteTokenizer(), 1, 0) == (
        "--calib-length 0 is below 1: give tokens, such as 512."
    )
    assert refused("builtin", ByteTokenizer(), 1, 8, part="test") == (
        "There is no part 'test': use calibration, heldout, all."
    )
