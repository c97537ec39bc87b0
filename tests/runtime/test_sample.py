"""Sampling: what is cut, what is kept, and that seeds repeat."""

import numpy as np
import pytest

from runtime.errors import EdgequantError
from runtime.sample import Sampler

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert Sampler().pick(LOGITS) == 1


def test_probabilities_are_the_softmax_at_temperature_one() -> None:
    np.testing.assert_allclose(Sampler(1.0).probabilities(LOGITS), np.exp(LOGITS), rtol=1e-6)


def test_top_k_keeps_the_k_most_likely() -> None:
    kept = Sampler(1.0, top_k=2).probabilities(LOGITS)
    np.testing.assert_allclose(kept, [0, 4 / 7, 0, 3 / 7, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, {1}), (0.5, {1, 3}), (0.86, {1, 3, 4, 0}), (1, set(range(5)))]
)
def test_top_p_keeps_the_least_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    probabilities = Sampler(1.0, top_p=top_p).probabilities(LOGITS)
    assert set(np.flatnonzero(probabilities)) == kept
    assert probabilities.sum() == pytest.approx(1)


def test_the_same_seed_draws_the_same_tokens_and_frequencies_follow_the_probabilities() -> None:
    first, second = Sampler(1.0, seed=5), Sampler(1.0, seed=5)
    draws = [first.pick(LOGITS) for _ in range(4000)]
    assert draws == [second.pick(LOGITS) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(draws) / 4000, np.exp(LOGITS), atol=0.03)


def test_huge_logits_do_not_overflow() -> None:
    assert Sampler(0.01).probabilities(np.array([1e4, -1e4], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(EdgequantError, match="must not be negative"):
        Sampler(**bad)
