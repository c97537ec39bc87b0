"""Scores of texts, from models whose head gives them: reward models and classifiers.

A score is read at a text's last token or, where the head has a marker, at each marker; see
runtime/archs/heads.py. The last token is the last one that the text has, whatever it is.
transformers takes the token before the first padding id from the right, so that it scores a text
that truly ends with that id one token early: `early` tells.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.archs import ScoreHead
from runtime.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.forward import Array, Ops, Weight
    from runtime.tokenizer import Tokenizer


def scored(ops: "Ops", head: ScoreHead, weights: Mapping[str, "Weight"], x: "Array") -> "Array":
    """What a head writes for normed states: (B, T, D) -> (B, T, labels)."""
    y: Any = None
    for linear in head.linears:
        x = x if y is None else y.clip(0)  # ReLU: arrays of numpy and torch spell it alike
        y = ops.matmul(x, weights[f"{linear.name}.weight"], weights.get(f"{linear.name}.bias"))
    return y


def head_of(engine: "Engine") -> ScoreHead:
    """The head of a model that scores. Raises UnsupportedError for one that predicts tokens."""
    if engine.arch.score_head is None:
        raise UnsupportedError(
            "this model predicts tokens and scores no texts; use `quantize generate`, or take a "
            "reward model."
        )
    return engine.arch.score_head


def text_ids(tokenizer: "Tokenizer | None", text: str) -> list[int]:
    """The token ids of a whole text, with what the tokenizer puts before and after it.

    A chat template may have written either already. Raises InputError without a tokenizer, or
    where no token is left.
    """
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer, so it cannot read a text; take a file that has one."
        )
    try:
        ids = tokenizer.encode(text)
    except (TypeError, UnicodeEncodeError):
        raise InputError("the text is none that can be written as UTF-8.") from None
    before, after = list(tokenizer.prefix), list(tokenizer.suffix)
    ids = ids if ids[: len(before)] == before else before + ids
    ids = ids if not after or ids[-len(after) :] == after else ids + after
    if not ids:
        raise InputError("the text has no tokens; give at least one character.")
    return ids


def marker_id(head: ScoreHead, tokenizer: "Tokenizer | None") -> int | None:
    """Id of the head's marker; None where it has none.

    Raises InputError for a tokenizer that does not know it.
    """
    if head.marker is None:
        return None
    found = None if tokenizer is None else tokenizer.backend.token_to_id(head.marker)
    if found is None:
        raise InputError(
            f"the tokenizer has no token {head.marker}, at which this model is scored; take the "
            "tokenizer that came with the model."
        )
    return found


def places(head: ScoreHead, tokenizer: "Tokenizer | None", ids: Sequence[int]) -> list[int]:
    """Where a text is scored: indices into its ids.

    Raises InputError for a text without the head's marker, or a tokenizer that does not know it.
    """
    marker = marker_id(head, tokenizer)
    if marker is None:
        return [len(ids) - 1]
    found = [place for place, token in enumerate(ids) if token == marker]
    if not found:
        raise InputError(
            f"the text has no {head.marker}, at which this model is scored; put one after each "
            "step of the answer."
        )
    return found


def scores(engine: "Engine", ids: Sequence[int]) -> np.ndarray:
    """Scores of a text, float32: (1, labels), or with a marker (markers, 1), in their order.

    Raises EdgequantError for a model that scores nothing, a text without a place to score, and one
    that is longer than the model's context.
    """
    head = head_of(engine)
    at = places(head, engine.tokenizer, ids)
    if len(ids) > engine.arch.context:
        raise InputError(
            f"a text has {len(ids)} tokens, and the model's context is {engine.arch.context}; "
            "shorten it."
        )
    if head.marker is None:
        found = engine.logits(np.asarray([ids], np.int64), last=True)[0]  # (1, labels)
    else:
        found = engine.logits(np.asarray([ids], np.int64))[0][at]  # (markers, labels)
    return as_scores(head, found)


def as_scores(head: ScoreHead, outputs: np.ndarray) -> np.ndarray:
    """A head's outputs (n, labels) -> scores: the same, or the probability (n, 1) of one label."""
    if head.label is None:
        return outputs
    shares = np.exp(outputs - outputs.max(-1, keepdims=True))
    return np.asarray(shares[:, [head.label]] / shares.sum(-1, keepdims=True), np.float32)


def early(head: ScoreHead, ids: Sequence[int]) -> bool:
    """Whether transformers scores this text at an earlier token than its last."""
    return head.marker is None and head.pad is not None and len(ids) > 1 and ids[-1] == head.pad
