"""KL and bytes of artifacts over the reports of a history, as a file."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantize.report.charts import HEIGHT, KINDS, STYLE, WIDTH, thin_labels
from quantize.report.frontier_chart import NOISE, check_path, plain_ticks, save
from quantize.report.history import Entry, History

__all__ = ["check_path", "write"]


def write(found: History, path: Path) -> None:
    """Both charts, one above the other, on white, as .svg or .png. Raises as `check_path` does."""
    check_path(path)
    with matplotlib.rc_context(STYLE):
        save(draw(found), path)


def draw(found: History) -> Figure:
    """KL above, MiB below; reports stand side by side in the order of their times."""
    figure = Figure(figsize=(WIDTH, 2 * HEIGHT), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.set_title(found.model, fontsize=11.5)
    reports = list(dict.fromkeys((entry.time, entry.report) for entry in found.entries))
    places = {report: place for place, report in enumerate(reports)}
    artifacts = dict.fromkeys(entry.artifact for entry in found.entries)
    for number, artifact in enumerate(artifacts):
        own = [entry for entry in found.entries if entry.artifact == artifact]
        at = np.array([places[entry.time, entry.report] for entry in own])
        colour = KINDS[number % len(KINDS)]
        add_kl(upper, at, own, colour)
        sizes = [entry.bytes / 2**20 for entry in own]
        lower.plot(at, sizes, marker="o", color=colour, linewidth=1, label=artifact)
    upper.set_yscale("log")
    plain_ticks(upper.yaxis)
    upper.set_ylabel("mean KL, nats a token")
    lower.set_ylim(bottom=0)
    lower.set_ylabel("size, MiB")
    versions = {entry.report: entry.version for entry in found.entries}
    thin_labels(lower, [f"{time[:10]}, {versions[report]}" for time, report in reports])
    figure.legend(*lower.get_legend_handles_labels(), loc="outside lower center", fontsize=9)
    return figure


def add_kl(axes: Axes, at: np.ndarray, entries: list[Entry], colour: str) -> None:
    """KL of one artifact at the places `at` (n,), with its standard error; empty marks failed."""
    kl = np.array([max(entry.kl, NOISE) for entry in entries])
    error = np.array(
        [min(entry.kl_se or 0.0, 0.9 * low) for entry, low in zip(entries, kl, strict=True)]
    )
    axes.errorbar(at, kl, error, color=colour, linewidth=1, capsize=3)
    for x, y, entry in zip(at, kl, entries, strict=True):
        fill = "none" if entry.state == "rejected" else colour
        axes.plot(x, y, marker="o", color=colour, markerfacecolor=fill)
