"""Show a report of models that score texts: table, page, card, and chart."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from export.files import new_file
from quantize.report import charts
from quantize.report.frontier_chart import DOTS_PER_INCH, check_path
from quantize.report.score_metrics import ScoreMetrics
from quantize.report.score_report import ScoreReport, ScoreResult

COLUMNS = ("rank corr.", "largest dev.", "mean dev.", "flipped pairs")


def table(report: ScoreReport) -> RenderableType:
    """A line for each artifact, a line for each of its domains, and notes."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("artifact", overflow="fold")
    for name in ("bytes", "bits", *COLUMNS):
        shown.add_column(name, justify="right", no_wrap=True)
    for result in report.results:
        size, bits = f"{result.bytes:,}", f"{result.bits_per_weight:.2f}"
        label = Text(result.label, style="bold red" if result.rejected else "bold")
        shown.add_row(label, size, bits, *cells(result.metrics))
        for domain, metrics in result.domains.items():
            shown.add_row(f"  {domain}", "", "", *cells(metrics), style="dim")
    lines = [caption(report)]
    lines += [f"{r.label}: {note}" for r in report.results for note in r.notes]
    return Group(shown, *(Text(line) for line in (*lines, *report.notes)))


def cells(metrics: ScoreMetrics) -> tuple[str, ...]:
    """The figures of a line, in the order of COLUMNS."""
    return (
        f"{metrics.rank:.5f}",
        f"{metrics.deviation:.4g}",
        f"{metrics.deviation_mean:.4g}",
        f"{metrics.flipped:,} of {metrics.pairs:,}",
    )


def caption(report: ScoreReport) -> str:
    """What the figures of the table mean."""
    spread = report.results[0].metrics.spread if report.results else 0.0
    return (
        f"Against {report.original.name}: Spearman's rank correlation of the scores of "
        f"{len(report.scores):,} texts, which end every {report.every} tokens in "
        f"{report.evaluation.windows} windows of {report.evaluation.length}; deviations from the "
        f"original's scores, whose standard deviation is {spread:.4g}; pairs of texts that change "
        "places."
    )


def scatter(axes: Axes, report: ScoreReport, results: list[ScoreResult]) -> None:
    """Each text at the original's score and the artifact's; on the line both are equal."""
    before = np.array(report.scores, np.float64).ravel()
    ends = [before.min(), before.max()]
    axes.plot(ends, ends, color=charts.INK, linewidth=0.7)
    for result, color in zip(results, charts.KINDS * len(results), strict=False):
        after = np.array(result.scores, np.float64).ravel()
        axes.plot(before, after, ".", color=color, markersize=4, alpha=0.6, label=result.label)
    axes.set_xlabel("score of the original")
    axes.set_ylabel("score of the artifact")
    if len(results) > 1:
        axes.legend()


def page_values(report: ScoreReport) -> dict[str, Any]:
    """What the page needs beside the report: a chart for each result."""
    drawn = [
        Markup(charts.svg(partial(scatter, report=report, results=[one]), f"scores{place}", 3))
        for place, one in enumerate(report.results)
    ]
    return {
        "pairs": list(zip(report.results, drawn, strict=True)),
        "caption": caption(report),
        "columns": COLUMNS,
        "cells": cells,
    }


def write_chart(report: ScoreReport, path: Path) -> None:
    """The scores of all artifacts against the original's, on white, as .svg or .png.

    Raises as `frontier_chart.check_path` does.
    """
    check_path(path)
    with matplotlib.rc_context(charts.STYLE), new_file(path) as temp:
        figure = Figure(figsize=(charts.WIDTH, charts.WIDTH), layout="constrained")
        scatter(figure.subplots(), report, list(report.results))
        kind = path.suffix.removeprefix(".")
        told = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(temp, format=kind, dpi=DOTS_PER_INCH, facecolor="white", metadata=told)
