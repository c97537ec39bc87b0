"""Every released model in llama.cpp and onnxruntime: what transformers computes, or refused."""

from pathlib import Path

import pytest

from tests.releases import Release
from tests.small_releases import TARGETS, alike, measure

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
MOST = 1e-6
"""KL of a file without quantization."""
MOST_AXES = 1e-5
"""The same in llama.cpp with rope on three axes, beside key biases of norm 900."""
MOST_SCORE = 1e-4
"""Deviation of a score of such a file, in standard deviations of the scores."""


@pytest.mark.parametrize("container", TARGETS)
@pytest.mark.parametrize("release", [same[0] for same in alike()], ids=lambda release: release.name)
def test_a_release_runs_or_is_refused(release: Release, container: str, tmp_path: Path) -> None:
    cell = measure(release, container, tmp_path)
    sentence = getattr(release, container)
    assert (sentence in cell.refused) if sentence else not cell.refused, cell
    if not sentence:
        axes = "_vl" in release.facts["model_type"]
        plain = MOST_AXES if axes else MOST
        most = MOST_SCORE if cell.scores else plain
        assert cell.floats < most, cell
        assert cell.rounded < 1, cell


def test_the_page_says_what_runs_and_what_is_refused() -> None:
    """Figures differ a little between machines; these do not."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    named = {", ".join(release.name for release in same): same[0] for same in alike()}
    assert rows
    for name, *cells in rows:
        for cell, container in zip(cells, TARGETS, strict=True):
            sentence = getattr(named[name], container)
            assert sentence in cell if sentence else not cell.startswith("refused"), name
