"""How far the scores of one model are from another's: pure functions on arrays, then their summary.

N scored places, each the end of a text; L labels, whose scores are compared label by label.
"""

from dataclasses import dataclass

import numpy as np

PAIRS = 1 << 22
"""Pairs of texts looked at at a time."""


@dataclass(frozen=True)
class ScoreMetrics:
    """A summary over some texts."""

    texts: int
    rank: float
    """Spearman's rank correlation of the scores, -1 to 1; of several labels the least."""
    deviation: float
    """Largest absolute difference of a score from the original's."""
    deviation_mean: float
    spread: float
    """Standard deviation of the original's scores over the texts; of several labels the largest."""
    pairs: int
    """Pairs of texts that the original scores differently, of all labels together."""
    flipped: int
    """Those of them that the artifact puts in the other order."""

    @property
    def flips(self) -> float:
        """Share of the pairs that flip."""
        return self.flipped / self.pairs if self.pairs else 0.0


def summarize(original: np.ndarray, artifact: np.ndarray) -> ScoreMetrics:
    """Compare scores (N, L) of both. A score that is not finite counts as the original's mean."""
    before, after = original.astype(np.float64), artifact.astype(np.float64)
    after = np.where(np.isfinite(after), after, before.mean(0))
    labels = range(before.shape[1])
    counts = [order(before[:, label], after[:, label]) for label in labels]
    change = np.abs(after - before)
    return ScoreMetrics(
        texts=len(before),
        rank=min(spearman(before[:, label], after[:, label]) for label in labels),
        deviation=float(change.max()),
        deviation_mean=float(change.mean()),
        spread=float(before.std(0).max()),
        pairs=sum(pairs for pairs, _ in counts),
        flipped=sum(flipped for _, flipped in counts),
    )


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the ranks of two (N,); where one of them is constant 0, where both are 1."""
    ranks = [average_ranks(values) for values in (one, other)]
    centred = [rank - rank.mean() for rank in ranks]
    sizes = [float(np.square(values).sum()) for values in centred]
    if not all(sizes):
        return float(not any(sizes))
    return float((centred[0] * centred[1]).sum() / np.sqrt(sizes[0] * sizes[1]))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value (N,) from 1; equal ones have the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[where])


def order(before: np.ndarray, after: np.ndarray, pairs: int = PAIRS) -> tuple[int, int]:
    """Of two (N,): pairs that `before` tells apart, and those of them that `after` turns round."""
    apart, flipped = 0, 0
    step = max(1, pairs // len(before))
    for start in range(0, len(before), step):
        stop = start + step
        one, other = (np.sign(x[start:stop, None] - x[None]) for x in (before, after))  # (n, N)
        later = np.arange(len(before)) > np.arange(start, min(stop, len(before)))[:, None]
        apart += int(np.count_nonzero(one[later]))
        flipped += int(np.count_nonzero((one * other)[later] < 0))
    return apart, flipped
