"""load() of the builtin texts: their domains in the proportion of the mix."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_data import load
from calib_data.document import document
from calib_data.windows import allot
from tests.calib_data.small_texts import ByteTokenizer, refused, sentences, texts

DOMAINS = ("prose", "chat", "code", "math", "tools", "languages")


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


@settings(max_examples=40)
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


def test_unknown_domain_is_refused_with_the_domains_there_are(bundle: Path) -> None:
    assert refused("builtin:code,poetry", ByteTokenizer(), 1, 32) == (
        "builtin has no domain 'poetry': choose from prose, code, chat."
    )


def test_builtin_short_of_all_windows_is_refused(bundle: Path) -> None:
    there = load("builtin", ByteTokenizer(), 0, 32).rows
    assert refused("builtin", ByteTokenizer(), 400, 32).startswith(
        f"builtin has {there} windows of 32 tokens; 400 were asked. Use --calib-rows {there}, "
    )
