"""Generate tokens and text on any engine, with a KV cache."""

from collections.abc import Iterable, Iterator

import numpy as np

from runtime.archs import FAMILIES
from runtime.engine import Engine
from runtime.errors import InputError, UnsupportedError
from runtime.sample import Sampler
from runtime.tokenizer import Tokenizer
from runtime.vision.seeing import SeeingEngine


def generate(
    engine: Engine,
    prompt: list[int],
    count: int,
    sampler: Sampler | None = None,
    stop: Iterable[int] = (),
) -> Iterator[int]:
    """Up to `count` new token ids after `prompt`; a token of `stop` ends it and is not given out.

    Raises EdgequantError for an empty prompt, or one that does not fit the context with `count`.
    """
    if engine.arch.score_head:
        raise UnsupportedError(
            "this model scores texts and predicts no tokens; use `quantize score FILE --text ...`."
        )
    if not prompt:
        raise InputError("the prompt has no tokens; give at least one character.")
    if not isinstance(count, int | np.integer) or count < 0:
        raise InputError(f"the number of new tokens must be 0 or more, not {count!r}.")
    total = len(prompt) + count
    if total > engine.arch.context:
        raise InputError(
            f"{len(prompt)} prompt tokens and {count} new ones exceed the model's context of "
            f"{engine.arch.context}; shorten one of them."
        )
    sampler, ends = sampler or Sampler(), set(stop)
    cache = engine.new_cache(1, total)
    new = prompt
    for _ in range(count):
        logits = engine.logits(np.array([new], np.int64), cache, last=True)[0, -1]
        token = sampler.pick(logits)
        if token in ends:
            return
        yield token
        new = [token]


def generate_text(
    engine: Engine,
    prompt: str,
    count: int,
    sampler: Sampler | None = None,
    stop_texts: tuple[str, ...] = (),
) -> Iterator[str]:
    """Text pieces after a prompt, ended by the model's EOS ids or by any of `stop_texts`.

    The prompt gets what the tokenizer puts before a text, and not what it puts after one. Raises
    InputError for one that stands for images which are not given, and as `generate`.
    """
    tokenizer = engine.tokenizer
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer, so it cannot read a prompt; take a file that has one."
        )
    if not all(stop_texts) or not all(isinstance(text, str) for text in stop_texts):
        raise InputError("a stop text is empty or no text; leave it out.")
    try:
        ids = tokenizer.encode(prompt)
    except (TypeError, UnicodeEncodeError):
        raise InputError("the prompt is no text that can be written as UTF-8.") from None
    if ids[:1] != list(tokenizer.prefix[:1]):  # a chat template may have written it already
        ids = [*tokenizer.prefix, *ids]
    refuse_placeholders(engine, tokenizer, ids)
    pieces = tokenizer.stream(generate(engine, ids, count, sampler, tokenizer.eos))
    return until(pieces, stop_texts) if stop_texts else pieces


def refuse_placeholders(engine: Engine, tokenizer: Tokenizer, ids: list[int]) -> None:
    """Raise InputError for a token that stands for an image or a video which is not there."""
    filled = engine.seen.token if isinstance(engine, SeeingEngine) else None
    for text in FAMILIES[engine.arch.family].placeholders:
        token = tokenizer.backend.token_to_id(text)
        if token is not None and token != filled and token in ids:
            raise InputError(
                f"the prompt has {text}, which stands for what the model is not given: take it out "
                "of the text, or give an image with `quantize generate --image`."
            )


def until(pieces: Iterable[str], stop_texts: tuple[str, ...]) -> Iterator[str]:
    """Pieces up to the first stop text, which may be spread over several of them."""
    held = ""
    keep = max(len(text) for text in stop_texts) - 1
    for piece in pieces:
        held += piece
        found = [at for at in map(held.find, stop_texts) if at >= 0]
        if found:
            yield held[: min(found)]
            return
        ready = len(held) - keep
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    yield held
