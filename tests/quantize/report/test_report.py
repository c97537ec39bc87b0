"""The report's JSON: what its schema says, and the same report when read back."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantize.report.report import SCHEMA_VERSION, Report, read_report
from runtime.errors import EdgequantError
from tests.quantize.report.schemas import errors, schema


def test_the_json_follows_the_shipped_schema(report: Report) -> None:
    assert errors(report.to_json(), schema(), schema()) == []
    assert schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def non_finite(values: dict[str, Any], place: str) -> dict[str, Any]:
    """A copy with one thing wrong."""
    out = copy.deepcopy(values)
    result = out["results"][0]
    if place == "missing":
        del result["metrics"]["kl"]
    elif place == "unknown":
        result["extra"] = 1
    elif place == "kind":
        result["bytes"] = "many"
    elif place == "range":
        result["metrics"]["top1"] = 1.5
    else:
        out["schema_version"] = 2
    return out


@pytest.mark.parametrize("place", ["missing", "unknown", "kind", "range", "version"])
def test_the_schema_refuses_broken_reports(place: str, report: Report) -> None:
    assert len(errors(non_finite(report.to_json(), place), schema(), schema())) == 1


def test_a_report_is_the_same_after_reading_it_back(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.text(), encoding="utf-8")
    assert read_report(path) == report


def test_the_json_says_who_is_on_the_frontier_and_what_beats_the_rest(report: Report) -> None:
    (one,) = report.results
    windows = tuple(replace(window, kl=window.kl + 1) for window in one.windows)
    regressions = replace(one, label="worse", windows=windows, metrics=replace(one.metrics, kl=9.0))
    values = replace(report, results=(regressions, one)).to_json()
    assert errors(values, schema(), schema()) == []
    told = [(r["label"], r["frontier"], r["beaten_by"]) for r in values["results"]]
    assert told == [("worse", False, "small-int4"), ("small-int4", True, None)]


def test_a_report_of_before_makers_and_frontiers_is_read(report: Report) -> None:
    values = report.to_json()
    for result in values["results"]:
        for name in ("maker", "frontier", "beaten_by"):
            del result[name]
    assert errors(values, schema(), schema()) == []
    old = Report.from_json(values)
    assert old.results[0].maker is None
    assert replace(old.results[0], maker="edgequant") == report.results[0]


def test_a_missing_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match="does not exist; give a report.json"):
        read_report(tmp_path / "none.json")


def test_failures_name_their_artifact(report: Report) -> None:
    values = report.to_json()
    values["results"][0]["failures"] = ["mean KL is high", "it has no tokenizer"]
    failed = Report.from_json(values)
    assert failed.failures == ["small-int4: mean KL is high", "small-int4: it has no tokenizer"]
    assert failed.results[0].rejected
    assert report.failures == []
