"""Rank correlation, deviations and flipped pairs, against slow and obvious twins."""

from itertools import combinations

import numpy as np
import pytest

from quantize.report.score_metrics import average_ranks, order, spearman, summarize


def slow_ranks(values: np.ndarray) -> list[float]:
    """One more than the smaller values, and half of the equal ones."""
    return [1 + sum(values < x) + (sum(values == x) - 1) / 2 for x in values]


def scores_of(seed: int, texts: int = 40, kinds: int = 12) -> np.ndarray:
    """Scores (N,) among which some are equal."""
    return np.random.default_rng(seed).integers(0, kinds, texts) / 4


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_the_correlation_of_average_ranks(seed: int) -> None:
    one, other = scores_of(seed), scores_of(seed + 10)
    ranks = [slow_ranks(values) for values in (one, other)]
    np.testing.assert_array_equal(average_ranks(one), ranks[0])
    assert spearman(one, other) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_a_known_rank_correlation() -> None:
    # ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)
    found = spearman(np.array([1.0, 2, 3, 4, 50]), np.array([0.2, 0.1, 0.4, 0.3, 0.5]))
    assert found == pytest.approx(0.8)


def test_constant_scores_rank_nothing() -> None:
    same, rising = np.full(5, 2.0), np.arange(5.0)
    assert spearman(same, rising) == spearman(rising, same) == 0.0
    assert spearman(same, same) == 1.0


@pytest.mark.parametrize("pairs", [1, 100, 1 << 22])
def test_pairs_flip_where_both_orders_are_strict(pairs: int) -> None:
    before, after = scores_of(1), scores_of(2)
    signs = [
        np.sign(before[a] - before[b]) * np.array([1, np.sign(after[a] - after[b])])
        for a, b in combinations(range(len(before)), 2)
    ]
    expected = (sum(s[0] != 0 for s in signs), sum(s[1] < 0 for s in signs))
    assert order(before, after, pairs) == expected


def test_of_several_labels_the_worst_rank_counts_and_all_pairs() -> None:
    before = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    after = np.array([[1.5, 3.0], [2.0, 2.0], [3.0, 1.0]])
    found = summarize(before, after)
    assert (found.texts, found.rank, found.deviation) == (3, pytest.approx(-1.0), 2.0)
    assert found.deviation_mean == pytest.approx((0.5 + 2 + 2) / 6)
    assert (found.pairs, found.flipped, found.flips) == (6, 3, 0.5)
    assert found.spread == pytest.approx(np.std([1, 2, 3]))


def test_a_score_that_is_not_finite_counts_as_the_mean() -> None:
    before = np.array([[0.0], [1.0], [5.0]])
    found = summarize(before, np.array([[np.nan], [1.0], [np.inf]]))
    assert found.deviation == 3.0
    assert np.isfinite(found.rank)
