"""`quantize compare`: artifacts of one model side by side, by size, with the frontier marked."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quantize.progress import Progress
from quantize.report import frontier_chart, score_render
from quantize.report.judge import check_files
from quantize.report.render import with_error
from quantize.report.report import Report
from quantize.report.score_report import AnyReport, ScoreReport
from quantize.report.subject import bytes_on_disk

MARK = "*"
"""Stands before an artifact on the frontier."""


def compare_files(
    files: list[Path],
    against: str | None,
    report_folder: Path | None,
    chart: Path | None,
    backend: str,
    flags: dict[str, Any],
    progress: Progress,
) -> AnyReport:
    """Measure files as `check_files` does, the smallest first; draw bytes against KL into `chart`.

    The chart of a model that scores texts has its scores against the original's.

    The effect of single layers and tensors, which only the page shows, is measured for a report.
    Raises EdgequantError for bad input, before any measurement.
    """
    if chart is not None:
        frontier_chart.check_path(chart)
    ordered = sorted(files, key=bytes_on_disk)
    effects = report_folder is not None
    report = check_files(
        ordered, against, report_folder, backend, flags, progress, reject=False, effects=effects
    )
    if chart is not None:
        if isinstance(report, ScoreReport):
            score_render.write_chart(report, chart)
        else:
            frontier_chart.write(report, chart)
    return report


def table(report: AnyReport) -> RenderableType:
    """A line for each artifact, the smallest first, then notes, then what is beaten and by what."""
    if isinstance(report, ScoreReport):
        return score_render.table(report)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    shown.add_column("artifact", overflow="fold")
    for name in ("bytes", "bits", "KL", "top-1", "ppl ratio"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("maker", overflow="fold")
    pairs = zip(report.results, report.standings, strict=True)
    ordered = sorted(pairs, key=lambda pair: (pair[0].bytes, pair[0].metrics.kl))
    for result, stands in ordered:
        metrics = result.metrics
        shown.add_row(
            MARK if stands.frontier else "",
            Text(result.label, style="bold red" if result.rejected else ""),
            f"{result.bytes:,}",
            f"{result.bits_per_weight:.2f}",
            with_error(metrics.kl, metrics.kl_se),
            f"{metrics.top1:.1%}",
            f"{metrics.ppl_ratio:.4f}",
            result.maker or "-",
            style="bold" if stands.frontier else None,
        )
    lines = [caption(report)]
    lines += [f"{r.label}: {note}" for r, _ in ordered for note in r.notes]
    lines += report.notes
    lines += [line for _, stands in ordered if (line := stands.sentence())]
    return Group(shown, *map(Text, lines))


def caption(report: Report) -> str:
    """What the figures of the table mean."""
    return (
        f"Against {report.original.name}: KL in nats a token ± standard error over "
        f"{report.evaluation.windows} windows of {report.evaluation.length} tokens; bits a weight; "
        f"perplexity over the original's; {MARK} no other is both no larger and no worse in KL."
    )
