"""The frontier against its definition spelled out, and what is said of those that are off it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.report.frontier import FrontierEntry, Standing, standings

WINDOWS = 4


def entry(label: str, size: int, kl: list[float], usable: bool = True) -> FrontierEntry:
    return FrontierEntry(label, size, float(np.mean(kl)), np.array(kl, float), usable)


# few different values, so that equal sizes, equal KL and equal artifacts are common
entries = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.lists(st.integers(0, 3).map(float), min_size=WINDOWS, max_size=WINDOWS),
        st.booleans() | st.just(True),
    ),
    min_size=1,
    max_size=8,
).map(lambda rows: [entry(str(i), *row) for i, row in enumerate(rows)])


def no_larger_and_no_worse(one: FrontierEntry, other: FrontierEntry) -> bool:
    return one.bytes <= other.bytes and one.kl <= other.kl


def equal(one: FrontierEntry, other: FrontierEntry) -> bool:
    return (one.bytes, one.kl) == (other.bytes, other.kl)


@given(entries)
def test_the_frontier_is_what_no_other_matches_in_size_and_kl(found: list[FrontierEntry]) -> None:
    for this, stands in zip(found, standings(found), strict=True):
        better = [
            other
            for other in found
            if other.usable and no_larger_and_no_worse(other, this) and not equal(other, this)
        ]
        assert stands.frontier == (this.usable and not better)
        assert (stands.rival is None) == (not better)


@given(entries)
def test_a_rival_beats_only_beyond_the_paired_standard_error(found: list[FrontierEntry]) -> None:
    named = {other.label: other for other in found}
    for this, stands in zip(found, standings(found), strict=True):
        if stands.rival is None:
            assert stands.sentence() is None
            continue
        rival = named[stands.rival]
        assert rival.usable
        assert no_larger_and_no_worse(rival, this)
        gaps = [a - b for a, b in zip(this.windows, rival.windows, strict=True)]
        mean = sum(gaps) / WINDOWS
        spread = sum((gap - mean) ** 2 for gap in gaps) / (WINDOWS - 1)
        assert stands.difference == pytest.approx(mean)
        assert stands.error == pytest.approx((spread / WINDOWS) ** 0.5)
        assert stands.saved == this.bytes - rival.bytes
        assert stands.beaten_by == (rival.label if mean > (spread / WINDOWS) ** 0.5 else None)


@given(entries)
def test_something_on_the_frontier_dominates_everything_usable_off_it(
    found: list[FrontierEntry],
) -> None:
    marked = list(zip(found, standings(found), strict=True))
    best = [this for this, stands in marked if stands.frontier]
    assert best or not any(this.usable for this in found)
    for this, stands in marked:
        if this.usable and not stands.frontier:
            assert any(no_larger_and_no_worse(other, this) for other in best)


def test_equal_artifacts_are_both_on_the_frontier() -> None:
    same = [entry("a", 10, [1.0, 2.0]), entry("b", 10, [2.0, 1.0])]
    assert [stands.frontier for stands in standings(same)] == [True, True]


def test_an_equal_size_or_an_equal_kl_is_enough_when_the_other_is_better() -> None:
    smaller, larger, worse = standings(
        [
            entry("smaller", 9, [1.0, 1.0]),
            entry("larger", 10, [1.0, 1.0]),
            entry("worse", 9, [2, 2]),
        ]
    )
    assert smaller.frontier
    assert (larger.frontier, larger.rival, larger.beaten_by) == (False, "smaller", None)
    assert (worse.frontier, worse.beaten_by) == (False, "smaller")


def test_the_best_of_those_that_clearly_beat_it_is_named() -> None:
    noisy = entry("noisy", 5, [0.0, 3.0, 0.0, 3.0])
    steady = entry("steady", 6, [1.5, 1.6, 1.5, 1.6])
    off = standings([noisy, steady, entry("off", 7, [1.7, 1.8, 1.7, 1.8])])[2]
    assert off.beaten_by == "steady"  # lower than noisy, but not by more than noisy varies


def test_what_failed_a_gate_beats_nothing_and_is_not_on_the_frontier() -> None:
    broken, fine = standings([entry("broken", 5, [0, 0], usable=False), entry("fine", 6, [1, 1])])
    assert fine.frontier
    assert broken == Standing("broken", frontier=False)


SENTENCES = {
    "is beaten": (
        [1.0, 1.2],
        "big is beaten by small, with 1,000 bytes fewer and 0.60000±0.10000 less KL.",
    ),
    "ties": (
        [0.2, 1.0],
        "big ties with small, with 1,000 bytes fewer and 0.10000±0.40000 less KL: within the "
        "standard error.",
    ),
    "one window": (
        [0.7],
        "big may be beaten by small, with 1,000 bytes fewer and 0.20000 less KL: one window gives "
        "no standard error.",
    ),
}


@pytest.mark.parametrize("what", SENTENCES)
def test_a_sentence_says_by_how_much(what: str) -> None:
    kl, expected = SENTENCES[what]
    small = entry("small", 2000, [0.5] * len(kl))
    assert standings([small, entry("big", 3000, kl)])[1].sentence() == expected


def test_a_sentence_says_when_the_size_is_the_same() -> None:
    one, other = entry("one", 10, [1.0, 1.0]), entry("other", 10, [2.0, 2.0])
    said = standings([one, other])[1].sentence()
    assert said is not None
    assert "other is beaten by one, with as many bytes and " in said
