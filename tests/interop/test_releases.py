"""Every released model in llama.cpp and onnxruntime: what transformers computes, or refused."""

from pathlib import Path

import pytest

from tests.releases import RELEASES, Release
from tests.small_releases import TARGETS, measure, structure

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

ROOT = Path(__file__).resolve().parents[2]
MOST = 1e-6
"""KL of a file without quantization."""
MOST_AXES = 1e-5
"""The same in llama.cpp with rope on three axes, beside key biases of norm 900."""
MOST_SCORE = 1e-4
"""Deviation of a score of such a file, in standard deviations of the scores."""


DISTINCT = list({structure(release): release for release in reversed(RELEASES)}.values())
"""One release of each structure."""


@pytest.mark.parametrize("container", TARGETS)
@pytest.mark.parametrize("release", DISTINCT, ids=lambda release: release.name)
def test_a_release_runs_or_is_refused(release: Release, container: str, tmp_path: Path) -> None:
    cell = measure(release, container, tmp_path)
    sentence = getattr(release, container)
    assert (sentence in cell.refused) if sentence else not cell.refused, cell
    if not sentence:
        axes = "_vl" in release.facts["model_type"]
        plain = MOST_AXES if axes else MOST
        most = MOST_SCORE if cell.scores else plain
        assert cell.floats < most < cell.rounded < 1, cell
