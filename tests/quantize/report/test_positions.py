"""KL by position: every token counts once, and a drift along the window shows where it is."""

from dataclasses import replace

import numpy as np
import pytest

from quantize.report.compare import tokens_at_once
from quantize.report.metrics import TokenScores
from quantize.report.positions import PositionScore, by_position, ranges
from runtime.archs import family_of
from tests.conftest import config


def scores_of(kl: np.ndarray) -> TokenScores:
    zeros = np.zeros(kl.shape, np.float32)
    ids = np.zeros(kl.shape, np.int32)
    return TokenScores(kl, ids, ids.copy(), zeros, zeros, zeros, zeros, zeros.astype(bool))


@pytest.mark.parametrize("length", [1, 3, 4, 5, 16, 17, 64, 100, 512, 520, 4096, 32_768, 40_000])
def test_ranges_cover_every_position_once(length: int) -> None:
    found = ranges(length)
    assert [place for part in found for place in part] == list(range(length))
    assert all(len(part) >= part.start / 2 for part in found)


def test_a_usual_and_a_long_window_have_eight_to_sixteen_ranges() -> None:
    assert [(part[0], part[-1]) for part in ranges(32)] == [(0, 3), (4, 7), (8, 15), (16, 31)]
    assert len(ranges(512)) == 8
    assert len(ranges(32_768)) == 14


def test_means_are_those_of_the_positions() -> None:
    kl = np.random.default_rng(0).random((3, 20), np.float32)
    scores = scores_of(kl)
    scores.top_artifact[:, 8:16] = 1  # another token from the 9th to the 16th
    found = by_position(scores)
    wide = kl.astype(np.float64)
    assert [(part.first, part.last) for part in found] == [(0, 3), (4, 7), (8, 19)]
    for part in found:
        of_windows = wide[:, part.first : part.last + 1].mean(1)
        assert part.kl == pytest.approx(of_windows.mean())
        assert part.kl_se == pytest.approx(of_windows.std(ddof=1) / np.sqrt(3))
    assert [part.top1 for part in found] == [1, 1, pytest.approx(4 / 12)]
    weights = [part.last - part.first + 1 for part in found]
    assert np.average([part.kl for part in found], weights=weights) == pytest.approx(wide.mean())


def test_one_window_has_no_error() -> None:
    (part,) = by_position(scores_of(np.full((1, 3), 0.5, np.float32)))
    assert part == PositionScore(0, 2, 0.5, None, 1.0)


def test_pieces_of_a_long_window_bound_logits_and_scores() -> None:
    arch = family_of(config("qwen2-tied")).arch(config("qwen2-tied"))  # 6 heads, 4,096 tokens
    assert tokens_at_once(arch, 512) == 2**27 // (4 * 4096)
    assert tokens_at_once(arch, 32_768) == 2**27 // (2 * 6 * 32_768)
    wide = replace(arch, vocab=151_936)
    assert tokens_at_once(wide, 512) == 2**27 // (4 * 151_936)
    assert tokens_at_once(arch, 2**30) == 1
