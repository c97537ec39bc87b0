"""Reports of sibling folders, drawn beside a report."""

from dataclasses import replace
from pathlib import Path

import pytest

from quantize.report import charts, render
from quantize.report.beside import MOST, beside
from quantize.report.report import Report


def other(report: Report, label: str, size: int) -> Report:
    """A report on another artifact of the same model."""
    (one,) = report.results
    return replace(report, results=(replace(one, label=label, bytes=size),))


def put(report: Report, folder: Path) -> None:
    folder.mkdir()
    (folder / "report.json").write_text(report.text(), encoding="utf-8")


def test_artifacts_of_sibling_folders_are_found_the_smallest_first(
    report: Report, tmp_path: Path
) -> None:
    put(other(report, "large", 900_000), tmp_path / "a b")
    put(other(report, "little", 10), tmp_path / "c")
    put(report, tmp_path / "same artifact")
    (tmp_path / "empty").mkdir()
    own = tmp_path / "own"
    put(report, own)
    found = beside(own, report)
    assert [result.label for result in found.results] == ["little (c)", "large (a b)"]
    assert found.links == ("../c/report.html", "../a%20b/report.html")
    assert found.notes == ()


def test_what_cannot_be_compared_is_told_and_other_models_are_not(
    report: Report, tmp_path: Path
) -> None:
    evaluation = replace(report.evaluation, sha256="0" * 64)
    put(replace(other(report, "x", 1), evaluation=evaluation), tmp_path / "text")
    original = replace(report.original, fingerprint="0" * 64)
    put(replace(other(report, "y", 2), original=original), tmp_path / "model")
    put(report, tmp_path / "broken")
    path = tmp_path / "broken" / "report.json"
    path.write_text(path.read_text()[:-9])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "report.json").write_text("[1, 2")
    found = beside(tmp_path / "own", report)
    assert found.results == ()
    assert len(found.notes) == 2
    assert "broken/report.json cannot be read" in found.notes[0]
    assert "text/report.json is of this model, but measured on other text" in found.notes[1]


def test_so_many_that_they_would_hide_each_other_are_cut_and_told(
    report: Report, tmp_path: Path
) -> None:
    (one,) = report.results
    many = tuple(replace(one, label=f"n{place}", bytes=place) for place in range(MOST + 3))
    put(replace(report, results=many), tmp_path / "many")
    found = beside(tmp_path / "own", report)
    assert len(found.results) == MOST
    assert found.notes == ("3 larger artifacts of sibling folders are not drawn.",)


def test_a_folder_without_a_parent_to_read_has_none(report: Report, tmp_path: Path) -> None:
    assert beside(tmp_path / "not there" / "own", report).results == ()


@pytest.mark.slow
def test_the_page_draws_and_links_them(report: Report, tmp_path: Path) -> None:
    put(other(report, "large", 9_000_000), tmp_path / "older")
    page = render.html(report, beside(tmp_path / "own", report))
    assert "Size against KL</h2>" in page
    assert '<a href="../older/report.html">large (older)</a>' in page
    assert page.count("<section") == 3  # verdict, size, and the report's own artifact
    chart = page[: page.index("</figure>")]
    assert {colour in chart for colour in (charts.BLUE, charts.GREY)} == {True}
