"""load() of any source: what it drops, what it refuses, and that held-out text stays apart."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_data import load
from calib_data.document import document
from tests.calib_data.small_texts import ByteTokenizer, refused, sentences, texts


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
    assert windows.dropped == ((28, "documents beyond the requested rows"),)
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


@settings(max_examples=25)
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
