"""Reports of one model over time: what is put side by side, and what is told instead."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from rich.console import Console

from quantize.report import history_chart
from quantize.report.history import History, history, table
from quantize.report.report import Report
from runtime.errors import InputError


def put(path: Path, report: Report, time: str, factor: float = 1.0, **changes: Any) -> None:
    (only,) = report.results
    metrics = replace(only.metrics, kl=only.metrics.kl * factor)
    made = replace(report, time=time, results=(replace(only, metrics=metrics),), **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made.text(), encoding="utf-8")


@pytest.fixture
def folder(report: Report, tmp_path: Path) -> Path:
    """Reports of three versions, of another model, of other text, and what is no report."""
    root = tmp_path / "reports"
    put(root / "b" / "report.json", report, "2026-03-02T10:00:00+00:00", 1.5, version="0.3")
    put(root / "a" / "report.json", report, "2026-02-01T10:00:00+00:00", version="0.2")
    rejected = replace(report.results[0], file=f"{report.results[0].file}.rejected")
    failed = replace(report, results=(replace(rejected, failures=("it is bad",)),))
    put(root / "c.json", failed, "2026-03-02T11:30:00+02:00", 2.0, version="0.2.9")
    other = replace(report.original, name="another", fingerprint="f" * 64)
    put(root / "other.json", report, "2026-01-01T00:00:00+00:00", original=other)
    text = replace(report.evaluation, sha256="0" * 64, data="mine.txt")
    put(root / "text.json", report, "2026-01-01T00:00:00+00:00", evaluation=text)
    (root / "damaged.json").write_text(report.text().replace('"windows"', '"doors"'))
    (root / "package.json").write_text("{}")
    return root


def printed(found: History) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(found))
    return capture.get()


def test_reports_of_one_model_and_text_stand_by_time(folder: Path, report: Report) -> None:
    found = history(folder)
    assert [(e.version, e.report) for e in found.entries] == [
        ("0.2", "a/report.json"),
        ("0.2.9", "c.json"),  # half an hour before the last one, told in another time zone
        ("0.3", "b/report.json"),
    ]
    kl = report.results[0].metrics.kl
    assert [e.kl / kl for e in found.entries] == pytest.approx([1, 2, 1.5])
    assert [e.state for e in found.entries] == ["passed", "rejected", "passed"]
    assert {e.artifact for e in found.entries} == {report.results[0].file}
    lines = printed(found).splitlines()
    assert [line for line in lines if "0.2.9" in line and "rejected" in line]


def test_what_cannot_be_compared_is_told(folder: Path) -> None:
    notes = "\n".join(history(folder).notes)
    assert "left out: other.json is of another model (another, ffffffffffff)" in notes
    assert "left out: text.json was measured on other text (mine.txt, 6 windows of 64)" in notes
    assert "damaged.json" in notes
    assert "package.json" not in notes
    assert "left out: other.json" in printed(history(folder))


@pytest.mark.parametrize("time", ["", "yesterday", "2026-02-01T10:00:00"])
def test_a_report_without_a_time_stands_where_it_was_written(
    time: str, report: Report, tmp_path: Path
) -> None:
    put(tmp_path / "report.json", report, time)
    os.utime(tmp_path / "report.json", (86400, 86400))
    (entry,) = history(tmp_path).entries
    assert entry.time == "1970-01-02T00:00:00+00:00"


def test_a_folder_without_reports_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder; give one that holds report.json"):
        history(tmp_path / "none")
    with pytest.raises(InputError, match="there is no report to read in .* such as a run leaves"):
        history(tmp_path)


def test_the_chart_is_drawn_and_an_existing_one_kept(folder: Path, tmp_path: Path) -> None:
    found = history(folder)
    for name in ("a.svg", "b.svg", "c.png"):
        history_chart.write(found, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    for shown in ("2026-02-01, 0.2", "2026-03-02, 0.3", "mean KL", "MiB", "small-int4"):
        assert shown in text
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0
    with pytest.raises(InputError, match=r"a.svg exists; choose another name with --chart"):
        history_chart.write(found, tmp_path / "a.svg")
    with pytest.raises(InputError, match=r"end its name in .svg or .png"):
        history_chart.check_path(tmp_path / "a.pdf")
