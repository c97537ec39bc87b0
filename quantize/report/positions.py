"""KL by position in a window: how far an artifact strays the more text it has read."""

from dataclasses import dataclass

import numpy as np

from quantize.report.metrics import TokenScores, standard_error

FIRST = 4
"""Tokens of the first range; each further one ends at twice the position of the one before."""


@dataclass(frozen=True)
class PositionScore:
    """Means over the tokens at some positions of every window."""

    first: int
    """Position of the first of them, from 0."""
    last: int
    kl: float
    """Nats a token."""
    kl_se: float | None
    """Standard error of the mean over windows; None for one."""
    top1: float
    """Share of tokens for which both models would pick the same next token."""


def ranges(length: int) -> list[range]:
    """The positions of a window in pieces, each about as long as all before it.

    A rest that is less than half as long as that goes into the last piece.
    """
    edges = [0, min(FIRST, length)]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    if len(edges) > 2 and 4 * (edges[-1] - edges[-2]) < edges[-1]:
        del edges[-2]
    return [range(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def by_position(scores: TokenScores) -> tuple[PositionScore, ...]:
    """A summary for each of `ranges`; scores are (W, T)."""
    found = []
    for places in ranges(scores.kl.shape[1]):
        at = slice(places.start, places.stop)
        kl = scores.kl[:, at].astype(np.float64).mean(1)  # (W,)
        same = float(scores.top1_match[:, at].mean())
        error = standard_error(kl)
        found.append(PositionScore(places[0], places[-1], float(kl.mean()), error, same))
    return tuple(found)
