"""load() of text that a model writes itself."""

from collections.abc import Callable

import numpy as np
import pytest

from calib_data import load, sources
from tests.calib_data.small_texts import ByteTokenizer, refused


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


def test_a_model_without_end_needs_rows() -> None:
    assert refused("self", ByteTokenizer(), 0, 8, generate=sampler()) == (
        "self is sampled without end: name the rows, such as --calib-rows 128."
    )


def test_self_without_a_model_is_refused() -> None:
    assert refused("self", ByteTokenizer(), 1, 8) == (
        "self samples its text from the model and none was given: use builtin or a file."
    )
