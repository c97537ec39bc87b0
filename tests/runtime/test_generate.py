"""Generation with a KV cache, stop conditions and streamed text."""

import numpy as np
import pytest

from quantize.checkpoint import Checkpoint
from runtime.engine import Engine, open_engine
from runtime.errors import EdgequantError
from runtime.generate import generate, generate_text, until
from runtime.sample import Sampler


@pytest.fixture(scope="module")
def engine(tiny: Checkpoint) -> Engine:
    return open_engine(tiny.model(), "torch")


def test_greedy_tokens_are_those_of_full_recomputation(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("The history of the town")
    ids = list(prompt)
    for _ in range(12):
        ids.append(int(engine.logits(np.array([ids]))[0, -1].argmax()))
    assert list(generate(engine, prompt, 12)) == ids[len(prompt) :]


def test_a_stop_token_ends_the_text_and_is_not_given_out(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("The history of the town")
    free = list(generate(engine, prompt, 8))
    assert list(generate(engine, prompt, 8, stop=[free[3]])) == free[: free.index(free[3])]


def test_streamed_pieces_join_to_the_decoded_text(engine: Engine) -> None:
    prompt = "def main(path):"
    ids = list(
        generate(
            engine, engine.tokenizer.encode(prompt), 24, Sampler(0.9, seed=3), engine.tokenizer.eos
        )
    )
    pieces = list(generate_text(engine, prompt, 24, Sampler(0.9, seed=3)))
    assert "".join(pieces) == engine.tokenizer.decode(ids, skip_special=True)


def test_a_character_split_over_tokens_is_streamed_whole(engine: Engine) -> None:
    text = "naïve 漢字 🙂 end"
    pieces = list(engine.tokenizer.stream(engine.tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["ab", "cST", "OPde"], ("STOP",), "abc"),
        (["ab", "cST", "Ude"], ("STOP",), "abcSTUde"),
        (["one\n", "\nUser:", " x"], ("\nUser:", "Bot:"), "one\n"),
        ([], ("x",), ""),
    ],
)
def test_stop_texts_may_be_spread_over_pieces(
    pieces: list[str], stops: tuple[str, ...], expected: str
) -> None:
    assert "".join(until(pieces, stops)) == expected


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(EdgequantError, match="no tokens"):
        next(generate(engine, [], 1))


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(EdgequantError, match="exceed the model's context of 2048"):
        next(generate(engine, [1] * 2000, 100))


def test_an_unknown_backend_is_refused_with_the_known_ones(tiny: Checkpoint) -> None:
    with pytest.raises(EdgequantError, match="known: .*native.*numpy"):
        open_engine(tiny.model(), "abacus")
