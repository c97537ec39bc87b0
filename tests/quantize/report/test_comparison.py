"""`quantize compare`: the table by size, the marks, the sentences below, and the chart's file."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quantize.checkpoint import Checkpoint
from quantize.report import comparison
from quantize.report.report import ArtifactResult, Report
from tests.quantize.report.conftest import rounded, write_onnx


def artifact(
    one: ArtifactResult, label: str, size: int, shift: float, maker: str | None
) -> ArtifactResult:
    """A result whose KL is `shift` above that of `one` in every other window, on average."""
    windows = tuple(
        replace(window, kl=window.kl + 2 * shift * (i % 2)) for i, window in enumerate(one.windows)
    )
    metrics = replace(one.metrics, kl=one.metrics.kl + shift)
    return replace(one, label=label, bytes=size, windows=windows, metrics=metrics, maker=maker)


@pytest.fixture
def four(report: Report) -> Report:
    """Two on the frontier, one beaten and one that ties, the largest first."""
    (one,) = report.results
    # over windows that alternate between 0 and 2 shifts, the error of the mean is 0.45 shifts
    results = (
        artifact(one, "large.gguf", 4000, 0.3, "llama.cpp"),
        artifact(one, "copy.gguf", 3500, 0.0, None),
        artifact(one, "good.gguf", 3000, 0.0, "edgequant"),
        replace(artifact(one, "small.gguf", 2000, 0.5, "other"), notes=("a note about it",)),
    )
    return replace(report, results=results, notes=("a note about all",))


def shown(report: Report, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(comparison.table(report))
    return out.getvalue().splitlines()


def test_the_table_is_sorted_by_bytes_and_marks_the_frontier(four: Report) -> None:
    rows = [line.split() for line in shown(four) if ".gguf" in line and "±" in line][:4]
    assert [row[0] if row[0] != "*" else row[1] for row in rows] == [
        "small.gguf",
        "good.gguf",
        "copy.gguf",
        "large.gguf",
    ]
    assert [row[0] == "*" for row in rows] == [True, True, False, False]


def test_a_row_has_bytes_bits_kl_top_1_ratio_and_maker(four: Report) -> None:
    metrics = four.results[2].metrics
    (row,) = [line.split() for line in shown(four) if line.startswith(" *  good.gguf")]
    assert row[2:] == [
        "3,000",
        f"{four.results[2].bits_per_weight:.2f}",
        f"{metrics.kl:.5f}±{metrics.kl_se:.5f}",
        f"{metrics.top1:.1%}",
        f"{metrics.ppl_ratio:.4f}",
        "edgequant",
    ]
    (unknown,) = [line.split() for line in shown(four) if line.startswith("    copy.gguf")]
    assert unknown[-1] == "-"


def test_the_last_sentences_say_what_beats_or_ties_with_the_rest(four: Report) -> None:
    text = " ".join(line.strip() for line in shown(four))
    told = re.search(r"a note about all(.*)$", text)
    assert told is not None
    tie, beaten = re.findall(r"\S+\.gguf (?:ties|is beaten).*?\.(?= \S+\.gguf (?:t|i)|$)", told[1])
    assert tie == (
        "copy.gguf ties with good.gguf, with 500 bytes fewer and 0.00000±0.00000 less KL: within "
        "the standard error."
    )
    assert beaten.startswith("large.gguf is beaten by good.gguf, with 1,000 bytes fewer and ")
    assert "0.30000±0.13" in beaten
    assert "small.gguf: a note about it" in text


def test_the_table_fits_80_columns(four: Report) -> None:
    long = replace(four.results[0], label="a-model-with-a-rather-long-name-Q4_K_M.gguf")
    lines = shown(replace(four, results=(long, *four.results[1:])), 80)
    assert max(map(len, lines)) <= 80
    assert any(f"{long.metrics.kl:.5f}±{long.metrics.kl_se:.5f}" in line for line in lines)


@pytest.fixture(scope="module")
def pair(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The small model in INT8 and INT4, the larger one first."""
    folder = tmp_path_factory.mktemp("pair")
    kinds = ("INT8_32", "INT4_32")
    return [write_onnx(folder / kind, small, rounded(small, kind)) for kind in kinds]


TEXT = ("--eval-rows", "6", "--eval-length", "64")


@pytest.mark.slow
def test_compare_prints_the_table_and_writes_the_chart_and_the_page(
    run: Any, pair: list[Path], small: Checkpoint, tmp_path: Path
) -> None:
    more = ("--chart", tmp_path / "chart.svg", "--report", tmp_path / "report")
    code, out, _ = run("compare", *pair, "--against", small.folder, *TEXT, *more)
    assert code == 0
    rows = [line.split() for line in out.splitlines() if "edgequant" in line]
    assert [row[:2] for row in rows] == [["*", "INT4_32"], ["*", "INT8_32"]]
    chart = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "INT4_32" in chart
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.index('id="result-0">INT4_32') < page.index('id="result-1">INT8_32')
    assert "made by edgequant" in page
    results = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert all(result["parts"] for result in results)


@pytest.mark.slow
def test_compare_in_json_says_where_each_stands(
    run: Any, pair: list[Path], small: Checkpoint
) -> None:
    code, out, _ = run("compare", *pair, "--against", small.folder, *TEXT, "--json")
    assert code == 0
    results = json.loads(out)["results"]
    told = [(r["label"], r["maker"], r["frontier"], r["beaten_by"]) for r in results]
    assert told == [("INT4_32", "edgequant", True, None), ("INT8_32", "edgequant", True, None)]
    # without a page, the effect of single layers is not worth the time
    assert {r["sensitivity"] for r in results} == {"not measured; --report measures it."}


def test_a_chart_that_cannot_be_written_is_refused_before_any_measurement(
    run: Any, pair: list[Path], small: Checkpoint, tmp_path: Path
) -> None:
    chart = tmp_path / "chart.pdf"
    code, out, err = run("compare", *pair, "--against", small.folder, "--chart", chart)
    assert (code, out) == (2, "")
    assert (
        err.replace("\n", "") == f"error a chart cannot be {chart}; end its name in .svg or .png."
    )


def test_a_missing_file_is_refused_with_one_sentence(run: Any, tmp_path: Path) -> None:
    code, _, err = run("compare", tmp_path / "none.gguf")
    assert code == 2
    assert "none.gguf does not exist; give a .gguf file" in err
