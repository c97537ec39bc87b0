"""Sampling: what is cut, what is kept, and that seeds repeat."""

import numpy as np
import pytest

from runtime.errors import EdgequantError
from runtime.sample import Sampler


def probabilities(sampler: Sampler, logits: np.ndarray) -> np.ndarray:
    """What a sampler draws from: (V,), zero where top-k or top-p cut."""
    out = np.zeros(len(logits))
    ids, weights = sampler.choices(logits)
    out[ids] = weights
    return out


def slow_probabilities(sampler: Sampler, logits: np.ndarray) -> np.ndarray:
    """The same by sorting everything."""
    scaled = logits.astype(np.float64) / sampler.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: sampler.top_k or len(order)]
    weights = np.exp(scaled[kept] - scaled[kept[0]])
    weights /= weights.sum()
    inside = np.cumsum(weights) - weights < sampler.top_p
    out = np.zeros(len(logits))
    out[kept[inside]] = weights[inside] / weights[inside].sum()
    return out


LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert Sampler().pick(LOGITS) == 1


def test_probabilities_are_the_softmax_at_temperature_one() -> None:
    np.testing.assert_allclose(probabilities(Sampler(1.0), LOGITS), np.exp(LOGITS), rtol=1e-6)


def test_top_k_keeps_the_k_most_likely() -> None:
    kept = probabilities(Sampler(1.0, top_k=2), LOGITS)
    np.testing.assert_allclose(kept, [0, 4 / 7, 0, 3 / 7, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, {1}), (0.5, {1, 3}), (0.86, {1, 3, 4, 0}), (1, set(range(5)))]
)
def test_top_p_keeps_the_least_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    found = probabilities(Sampler(1.0, top_p=top_p), LOGITS)
    assert set(np.flatnonzero(found)) == kept
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 0.999999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 40, 2999, 3000, 9000])
def test_what_is_drawn_from_is_what_sorting_everything_finds(
    top_k: int, top_p: float, temperature: float
) -> None:
    # rounded to eighths, so that many are equal
    logits = np.random.default_rng(top_k).normal(0, 3, 3000).astype(np.float32).round(3)
    logits[::3] = np.round(logits[::3] * 8) / 8
    sampler = Sampler(temperature, top_k, top_p)
    expected = slow_probabilities(sampler, logits)
    np.testing.assert_allclose(probabilities(sampler, logits), expected, rtol=1e-9, atol=0)


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    sampler, uniform = Sampler(1.0, top_p=0.86, seed=9), np.random.default_rng(9)
    bounds = np.cumsum(probabilities(sampler, LOGITS))
    for _ in range(200):
        expected = np.flatnonzero(bounds > uniform.random())[0]
        assert sampler.pick(LOGITS) == expected


def test_the_same_seed_draws_the_same_tokens_and_frequencies_follow_the_probabilities() -> None:
    first, second = Sampler(1.0, seed=5), Sampler(1.0, seed=5)
    draws = [first.pick(LOGITS) for _ in range(4000)]
    assert draws == [second.pick(LOGITS) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(draws) / 4000, np.exp(LOGITS), atol=0.03)


def test_huge_logits_do_not_overflow() -> None:
    assert probabilities(Sampler(0.01), np.array([1e4, -1e4], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(EdgequantError, match="must be"):
        Sampler(**bad)


def test_a_temperature_close_to_zero_draws_the_likeliest() -> None:
    logits = np.array([0.5, 3.0, 2.999, -40.0], np.float32)
    assert Sampler(temperature=5e-324, seed=1).pick(logits) == 1
    assert np.array_equal(Sampler(temperature=1e-320).choices(logits)[1], [0, 1, 0, 0])
