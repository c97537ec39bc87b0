"""Metrics against slow, obvious twins in Python floats."""

import math
from typing import Any

import numpy as np
import pytest

from quantize.report.metrics import (
    EDGES,
    HUGE,
    TokenScores,
    figures,
    histogram,
    score,
    stack,
    summarize,
)
from runtime import compiled
from runtime.errors import InputError

pytestmark = pytest.mark.numeric


def logits(seed: int, tokens: int = 7, vocab: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Two similar sets of logits (tokens, vocab), far from 0 so that a plain exp would overflow."""
    random = np.random.default_rng(seed)
    original = random.normal(900, 3, (tokens, vocab)).astype(np.float32)
    return original, (original + random.normal(0, 0.5, original.shape)).astype(np.float32)


def probabilities(row: np.ndarray) -> list[float]:
    largest = max(float(x) for x in row)
    powers = [math.exp(float(x) - largest) for x in row]
    return [power / sum(powers) for power in powers]


def test_scores_are_those_of_the_slow_twin() -> None:
    original, artifact = logits(0)
    following = np.array([3, 0, 10, 4, 4, 1, -1])
    scores = score(original, artifact, following)
    for at in range(len(original)):
        p, q = probabilities(original[at]), probabilities(artifact[at])
        kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        assert scores.kl[at] == pytest.approx(kl, rel=1e-5)
        assert scores.top_original[at] == p.index(max(p))
        assert scores.top_artifact[at] == q.index(max(q))
        assert scores.p_top_original[at] == pytest.approx(max(p), rel=1e-5)
        assert scores.p_top_artifact[at] == pytest.approx(q[p.index(max(p))], rel=1e-5)
        if following[at] >= 0:
            assert scores.nll_original[at] == pytest.approx(-math.log(p[following[at]]), rel=1e-5)
            assert scores.nll_artifact[at] == pytest.approx(-math.log(q[following[at]]), rel=1e-5)
    assert np.isnan(scores.nll_original[-1])
    assert np.isnan(scores.nll_artifact[-1])


def test_scores_do_not_depend_on_how_many_rows_are_taken_at_a_time() -> None:
    original, artifact = logits(1)
    following = np.arange(7)
    whole = score(original, artifact, following)
    pieces = score(original, artifact, following, cells=22)  # two rows at a time
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))


@pytest.mark.parametrize("vocab", [1, 2, 7, 8, 50, 4099])
def test_the_kernels_give_the_figures_of_numpy(vocab: int, native_settings: Any) -> None:
    original, artifact = logits(5, tokens=9, vocab=vocab)
    artifact[4, vocab // 2] = np.inf
    artifact[5] = original[5]
    artifact[6] = original[6] + np.float32(1e-3)
    following = np.array([0, vocab - 1, -1, 0, 0, vocab // 2, -1, 0, 0])
    expected = figures(original, artifact, following)
    for name in compiled.kernels.instruction_sets():
        native_settings.set_instruction_set(name)
        found = compiled.kernels.compare_logits(original, artifact, following)
        # sums of probabilities, each right to a few units of 2^-53
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_the_kernels_refuse_what_does_not_fit() -> None:
    original, artifact = logits(6)
    for args in (
        (original, artifact[:, :-1].copy(), np.zeros(7, int)),
        (original, artifact, np.zeros(6, int)),
        (original, artifact, np.full(7, 11)),
        (original, artifact, np.full(7, -2)),
    ):
        with pytest.raises(InputError, match="give"):
            compiled.kernels.compare_logits(*args)


def test_equal_logits_have_no_divergence() -> None:
    original, _ = logits(2)
    scores = score(original, original, np.full(7, -1))
    assert not scores.kl.any()
    assert scores.top1_match.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_logits_count_as_a_uniform_guess_that_never_agrees(bad: float) -> None:
    original, artifact = logits(3)
    artifact[2, 5] = bad
    scores = score(original, artifact, np.zeros(7, int))
    p = probabilities(original[2])
    assert scores.non_finite.tolist() == [False, False, True, False, False, False, False]
    assert scores.kl[2] == pytest.approx(sum(x * math.log(x * 11) for x in p), rel=1e-5)
    assert scores.nll_artifact[2] == pytest.approx(math.log(11))
    assert not scores.top1_match[2]


def test_finite_but_ruined_logits_give_finite_figures() -> None:
    original, artifact = logits(4)
    artifact[:, 0] = 3e38
    original[:, 1] = 3e38
    scores = score(original, artifact, np.ones(7, int))
    assert (scores.kl == np.float32(HUGE)).all()
    both = stack([scores, scores])
    assert summarize(both, np.array([True, True])).ppl == pytest.approx(HUGE)


def windows() -> TokenScores:
    """Three windows of seven tokens."""
    return stack([score(*logits(seed), np.append(np.arange(6), -1)) for seed in (5, 6, 7)])


def test_summary_is_that_of_the_slow_twin() -> None:
    scores = windows()
    chosen = np.array([True, False, True])
    found = summarize(scores, chosen)
    rows = [0, 2]
    kl = sorted(float(x) for row in rows for x in scores.kl[row])
    means = [sum(map(float, scores.kl[row])) / 7 for row in rows]
    middle = sum(means) / 2
    assert (found.windows, found.tokens) == (2, 14)
    assert found.kl == pytest.approx(middle)
    # sample deviation of two windows over the root of two
    spread = math.sqrt(sum((mean - middle) ** 2 for mean in means) / 1)
    assert found.kl_se == pytest.approx(spread / math.sqrt(2))
    assert found.kl_median == pytest.approx((kl[6] + kl[7]) / 2)
    assert found.kl_max == kl[-1]
    assert kl[12] <= found.kl_p95 <= found.kl_p99 <= kl[13]
    same = [scores.top_original[r, t] == scores.top_artifact[r, t] for r in rows for t in range(7)]
    assert found.top1 == pytest.approx(sum(same) / 14)
    nll = [float(scores.nll_artifact[r, t]) for r in rows for t in range(6)]
    before = [float(scores.nll_original[r, t]) for r in rows for t in range(6)]
    assert found.ppl == pytest.approx(math.exp(sum(nll) / 12))
    assert found.ppl_original == pytest.approx(math.exp(sum(before) / 12))
    assert found.ppl_ratio == pytest.approx(found.ppl / found.ppl_original)


def test_one_window_has_no_standard_error() -> None:
    found = summarize(windows(), np.array([True, False, False]))
    assert found.kl_se is None
    assert found.top1_se is None
    assert found.ppl_ratio_se is None


def test_histogram_counts_every_token_once_and_keeps_the_outliers() -> None:
    kl = np.array([[0.0, 1e-9, 2e-7], [0.5, 31.0, 900.0]])
    found = histogram(kl)
    assert sum(found.counts) == 6
    assert found.counts[0] == 2
    assert found.counts[-1] == 2
    assert found.counts[1] == 1  # 1.78e-7 to 3.16e-7
    inside = [low <= 0.5 < high for low, high in zip(EDGES, EDGES[1:], strict=False)]
    assert found.counts[inside.index(True)] == 1
