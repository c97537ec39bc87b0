"""The tokens at which an artifact strays farthest, with what both models expect there."""

from dataclasses import dataclass, field, replace

import numpy as np

from calib_data import Windows
from quantize.report.metrics import TokenScores, log_softmax
from quantize.report.report import Expected, WorstToken
from runtime.tokenizer import Tokenizer

WORST = 12
"""Tokens that are kept."""
CONTEXT = 24
"""Tokens of text shown before such a token."""
LIKELY = 5
"""Next tokens kept of each model."""


@dataclass(frozen=True)
class Place:
    """A token of some window, and the next tokens that either model finds likely there."""

    kl: float
    window: int
    position: int
    ids: np.ndarray
    """(n,) the original's most likely tokens, then those of the artifact that are not among them;
    n is from LIKELY to twice that."""
    original: np.ndarray
    """(n,) their probabilities."""
    artifact: np.ndarray


@dataclass
class Worst:
    """The tokens of highest KL of one artifact so far; of equal ones the first are kept."""

    count: int = WORST
    places: list[Place] = field(default_factory=list)

    def see(
        self, window: int, start: int, kl: np.ndarray, original: np.ndarray, artifact: np.ndarray
    ) -> None:
        """Some tokens of a window, from position `start`: their kl (t,) and both logits (t, V).

        Logits with NaN or infinity are a uniform guess, as for the KL.
        """
        full = len(self.places) == self.count
        least = self.places[-1].kl if full else -1.0
        order = np.argsort(-kl, kind="stable")[: self.count]
        for at in order[kl[order] > least]:
            rows = (original[at], artifact[at])
            self.places.append(Place(float(kl[at]), window, start + int(at), *likely(*rows)))
        self.places.sort(key=lambda place: -place.kl)
        del self.places[self.count :]


def likely(original: np.ndarray, artifact: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likely next tokens of two rows of logits (V,): the ids of Place, and both probabilities."""
    if not np.isfinite(artifact).all():
        artifact = np.zeros_like(artifact)
    p, q = np.exp(log_softmax(np.stack([original, artifact])))  # (V,) each
    first, second = (np.argsort(-x, kind="stable")[:LIKELY] for x in (p, q))
    ids = np.concatenate([first, second[~np.isin(second, first)]])
    return ids, p[ids], q[ids]


def worst_tokens(
    scores: TokenScores, windows: Windows, tokenizer: Tokenizer | None, worst: Worst
) -> tuple[WorstToken, ...]:
    """The tokens of `worst` with their text; ids in angle brackets without a tokenizer."""
    found = []
    for place in worst.places:
        token = token_at(scores, windows, tokenizer, place.window, place.position)
        likely = zip(place.ids, place.original, place.artifact, strict=True)
        expected = [
            Expected(text_of(np.array([i]), tokenizer), float(p), float(q)) for i, p, q in likely
        ]
        found.append(replace(token, expected=tuple(expected)))
    return tuple(found)


def flipped_tokens(
    scores: TokenScores, windows: Windows, tokenizer: Tokenizer | None
) -> tuple[WorstToken, ...]:
    """Where both would go on differently: the tokens of highest KL."""
    order = np.argsort(-scores.kl, axis=None, kind="stable")
    order = order[~scores.top1_match.ravel()[order]][:WORST]
    places = zip(*np.unravel_index(order, scores.kl.shape), strict=True)
    return tuple(token_at(scores, windows, tokenizer, int(w), int(at)) for w, at in places)


def token_at(
    scores: TokenScores, windows: Windows, tokenizer: Tokenizer | None, window: int, at: int
) -> WorstToken:
    """One token with its text, and without what else is likely there."""
    ids = windows.ids[window]

    def text(tokens: np.ndarray) -> str:
        return text_of(tokens, tokenizer)

    return WorstToken(
        kl=float(scores.kl[window, at]),
        domain=windows.domains[window],
        window=window,
        position=at,
        context=text(ids[max(0, at + 1 - CONTEXT) : at + 1]),
        following=text(ids[at + 1 : at + 2]),
        original=text(scores.top_original[window, at : at + 1]),
        original_probability=float(scores.p_top_original[window, at]),
        artifact=text(scores.top_artifact[window, at : at + 1]),
        artifact_probability=float(scores.p_top_artifact[window, at]),
    )


def text_of(ids: np.ndarray, tokenizer: Tokenizer | None) -> str:
    """The text of ids, or the ids in angle brackets."""
    plain = [int(token) for token in ids]
    return tokenizer.decode(plain) if tokenizer else " ".join(f"<{token}>" for token in plain)
