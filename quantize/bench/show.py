"""A measured speed as a table and as a chart."""

import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table

from export.files import new_file
from quantize.bench.speed import BenchResult, Samples
from quantize.report.charts import BLUE, INK, ORANGE, STYLE, WIDTH
from quantize.report.frontier_chart import DOTS_PER_INCH, check_path
from runtime.checkpoint import model_name

BAR = 0.42
"""Inches of a chart's height for each bar."""
FRAME = 0.75
"""Inches for what is above and below the bars of one panel."""


def table(speed: BenchResult) -> RenderableType:
    """A line for each figure, a column for each engine, and the ratios; then sentences."""
    asked, ratios = speed.request, speed.ratios or {}
    shown = Table(f"{model_name(asked.file)}, {asked.threads} threads", box=None)
    for engine in speed.engines:
        shown.add_column(engine.label, justify="right")
    if ratios:
        shown.add_column("times as fast", justify="right")
    for name, cell, ratio in lines(speed):
        cells = [cell(engine) for engine in speed.engines]
        told = [f"{ratios[ratio]:.2f}" if ratio else ""] if ratios else []
        shown.add_row(name, *cells, *told)
    read = statistics.median(speed.bandwidth)
    limit = (
        f"{speed.weight_bytes:,} bytes of weights a token; memory is read at {read / 1e9:.1f} "
        f"GB/s, which allows {read / speed.weight_bytes:.1f} tokens/s."
    )
    turns = ", engines taking turns" if len(speed.engines) > 1 else ""
    rounds = f"Medians of {asked.repeat} rounds{turns}."
    return Group(shown, "\n".join([limit, rounds, *speed.notes]))


def lines(speed: BenchResult) -> list[tuple[str, Callable[[Samples], str], str]]:
    """Name of a figure, what an engine's cell says, and which of the ratios belongs to it."""
    asked = speed.request
    after = f"generation after {asked.context:,} tokens" if asked.context else "generation"
    return [
        (f"prompt of {asked.prompt:,}, tokens/s", lambda e: median(e.prompt), "prompt"),
        (f"{after}, tokens/s", lambda e: median(e.generate), "generate"),
        ("  of the memory's limit", lambda e: f"{statistics.median(e.share):.0%}", ""),
        ("load to first token, s", lambda e: f"{statistics.median(e.load):.3f}", "load"),
        ("resident memory, MiB", lambda e: mebibytes(e, "resident"), ""),
        ("  not of the file", lambda e: mebibytes(e, "anonymous"), ""),
        ("  at most", lambda e: mebibytes(e, "peak"), ""),
    ]


def median(rounds: list[float]) -> str:
    """A speed."""
    return f"{statistics.median(rounds):,.1f}"


def mebibytes(engine: Samples, word: str) -> str:
    """A figure of an engine's memory; a dash where the system does not tell."""
    return f"{engine.memory[word] / 2**20:,.0f}" if word in engine.memory else "-"


def draw(speed: BenchResult) -> Figure:
    """Bars of prompt and generation speed for each engine, with the memory's limit marked.

    Call it with the style of `charts`.
    """
    high = 2 * (FRAME + BAR * len(speed.engines))
    figure = Figure(figsize=(WIDTH, high), layout="constrained")
    asked = speed.request
    figure.suptitle(f"{model_name(asked.file)}, {asked.threads} threads", fontsize=11.5)
    above, below = figure.subplots(2, 1)
    bars(above, speed.engines, [engine.prompt for engine in speed.engines])
    above.set_xlabel(f"prompt of {asked.prompt:,}, tokens/s")
    bars(below, speed.engines, [engine.generate for engine in speed.engines])
    after = f" after {asked.context:,} tokens" if asked.context else ""
    below.set_xlabel(f"generation{after}, tokens/s")
    limit = statistics.median(speed.bandwidth) / speed.weight_bytes
    below.axvline(limit, color=INK, linewidth=1, linestyle=":")
    top = ("data", "axes fraction")
    below.annotate("memory's limit", (limit, 1), xycoords=top, ha="right", va="bottom", fontsize=10)
    below.set_xlim(0, 1.08 * max(limit, *(max(e.generate) for e in speed.engines)))
    return figure


def bars(axes: Axes, engines: list[Samples], rounds: list[list[float]]) -> None:
    """A bar for each engine up to its median, and its slowest and fastest round."""
    for place, values in enumerate(rounds):
        middle = statistics.median(values)
        spread = [[middle - min(values)], [max(values) - middle]]
        colour = ORANGE if place else BLUE
        axes.barh(place, middle, height=0.6, color=colour, xerr=spread, ecolor=INK, capsize=3)
    axes.set_yticks(range(len(engines)), [engine.label for engine in engines])
    axes.invert_yaxis()


def write(speed: BenchResult, path: Path) -> None:
    """The chart, on white, as .svg or .png. Raises as `frontier_chart.check_path` does."""
    check_path(path)
    with matplotlib.rc_context(STYLE), new_file(path) as temp:
        image_format = path.suffix.removeprefix(".")
        told = {"Date": None, "Creator": None} if image_format == "svg" else {"Software": None}
        figure = draw(speed)
        figure.savefig(
            temp, format=image_format, dpi=DOTS_PER_INCH, facecolor="white", metadata=told
        )
