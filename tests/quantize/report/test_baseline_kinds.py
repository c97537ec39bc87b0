"""Baselines that are no report, or another one than they were."""

import json
from functools import partial
from pathlib import Path

import pytest

from quantize.report.baseline import read_baseline
from quantize.report.report import Report
from tests.mutations import TEXTS, mutations, put, told


def test_no_field_of_a_baseline_gives_a_traceback(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    names = [{result.label} for result in report.results]
    read = partial(read_baseline, path, report.original, report.evaluation, names)
    refused = 0
    for what, changed in mutations(report.to_json(), 200):
        path.write_text(json.dumps(changed))
        refused += told(read, what, path.name)
    assert refused > 50


@pytest.mark.parametrize("what", TEXTS)
def test_a_baseline_of_another_kind_is_named(what: str, report: Report, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    put(path, TEXTS[what])
    read = partial(read_baseline, path, report.original, report.evaluation, [])
    assert told(read, what, path.name)


def test_a_baseline_must_have_every_window(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    values = report.to_json()
    values["results"][0]["windows"].pop()
    path.write_text(json.dumps(values))
    names = [{report.results[0].label}]
    read = partial(read_baseline, path, report.original, report.evaluation, names)
    assert told(read, "a window is missing", "without a score for each of its 6 windows")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["windows", "tensors", "metrics"])
def test_a_baseline_with_a_number_that_is_none_is_refused(
    place: str, number: str, report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "baseline.json"
    values = report.to_json()
    within = values["results"][0][place]
    field = "error" if place == "tensors" else "kl"
    (within if place == "metrics" else within[0])[field] = 12345.678
    path.write_text(json.dumps(values).replace("12345.678", number))
    names = [{report.results[0].label}]
    read = partial(read_baseline, path, report.original, report.evaluation, names)
    assert told(read, number, "holds a number that is not finite")


def test_a_report_of_scores_is_no_baseline(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"kind": "scores", "schema_version": 1, "results": []}))
    read = partial(read_baseline, path, report.original, report.evaluation, [])
    assert told(read, "scores", "baseline.json compares scores of texts, not predictions")
