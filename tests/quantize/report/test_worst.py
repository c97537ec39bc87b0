"""The worst tokens, kept while windows go by, and what both models expect there."""

import numpy as np

from quantize.report.metrics import figures
from quantize.report.report import Report
from quantize.report.worst import LIKELY, Worst, likely


def test_pieces_of_windows_give_what_sorting_all_tokens_gives() -> None:
    rng = np.random.default_rng(0)
    original, artifact = (rng.normal(size=(5, 24, 40)).astype(np.float32) for _ in range(2))
    artifact[1, 3:9] = original[1, 3:9]  # equal tokens, of which the first come first
    artifact[4, 2], original[4, 2] = artifact[0, 7], original[0, 7]
    following = np.full(24, -1)
    kl = np.stack([figures(p, q, following)[:, 0] for p, q in zip(original, artifact, strict=True)])
    for count in (3, 12, 5 * 24):
        kept = Worst(count)
        for row in range(5):
            for start in (0, 10, 20):
                at = slice(start, start + 10)
                kept.see(row, start, kl[row, at], original[row, at], artifact[row, at])
        order = np.argsort(-kl, axis=None, kind="stable")[:count]
        expected = list(zip(*np.unravel_index(order, kl.shape), strict=True))
        assert [(place.window, place.position) for place in kept.places] == expected
        assert [place.kl for place in kept.places] == [kl[at] for at in expected]
    for place in kept.places:
        at = place.window, place.position
        p, q = (np.exp(x) / np.exp(x).sum() for x in (original[at], artifact[at]))
        np.testing.assert_allclose(place.original, p[place.ids], rtol=1e-5)
        np.testing.assert_allclose(place.artifact, q[place.ids], rtol=1e-5)
        assert set(place.ids) == {*np.argsort(-p)[:LIKELY], *np.argsort(-q)[:LIKELY]}
        assert list(place.ids[:LIKELY]) == list(np.argsort(-p)[:LIKELY])


def test_broken_logits_are_a_uniform_guess() -> None:
    original = np.arange(8, dtype=np.float32)
    ids, _, artifact = likely(original, np.full(8, np.nan, np.float32))
    assert list(ids[:LIKELY]) == [7, 6, 5, 4, 3]
    np.testing.assert_allclose(artifact, 1 / 8)


def test_a_vocabulary_smaller_than_the_list_is_shown_whole() -> None:
    ids, original, _ = likely(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert sorted(ids) == [0, 1, 2]
    np.testing.assert_allclose(original, 1 / 3)


def test_the_report_has_them_with_their_text(report: Report) -> None:
    (one,) = report.results
    assert len(one.worst) == 12
    for token in one.worst:
        first = token.expected[0]
        assert (first.token, round(first.original, 6)) == (
            token.original,
            round(token.original_probability, 6),
        )
        assert abs(first.artifact - token.artifact_probability) < 1e-6
        best = max(token.expected, key=lambda expected: expected.artifact)
        assert best.token == token.artifact
        assert LIKELY <= len(token.expected) <= 2 * LIKELY
