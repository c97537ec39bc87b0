"""The chart of bytes against KL, with the frontier: for the report's page, or as a file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from export.files import check_folder, new_file
from quantize.report.charts import BLUE, GREY, HEIGHT, INK, ORANGE, STYLE, WIDTH, inline
from quantize.report.labels import ambiguous, distances, nearest, place, short_names
from quantize.report.report import ArtifactResult, Report
from runtime.errors import InputError

FORMATS = (".svg", ".png")
NOISE = 1e-6
"""Nats: a smaller KL is that of rounding in float32, or zero, which a logarithmic axis has not."""
WIDE = 4
"""Sizes that differ by a larger factor are drawn on a logarithmic axis."""
GROWTH = 1.25
"""A chart whose labels find no room, or only room far away, is drawn this much higher."""
FAR = 24
"""Points from a mark to a label that is far from it."""
ROOMY = 5.5
"""Inches: a chart so high is not made higher only to bring labels near."""
LABEL = 9
"""Points, of the labels' letters."""
GAP = 5
"""Points from a mark's middle to a label."""
LEADER: Any = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": GAP / 2}
"""The line from a label to its point."""
DOTS_PER_INCH = 200
"""Of a picture."""


def size_against_kl(report: Report, title: str = "", own: int | None = None) -> Figure:
    """Each artifact as a point with its standard error, labelled; a step line joins the frontier.

    All but the first `own` are grey. It grows in height until every label has room. Call it with
    the style of `charts`.
    """
    height = HEIGHT
    while True:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)  # it measures the labels
        axes = figure.subplots()
        axes.set_title(title, fontsize=11.5)
        draw_points(axes, report, own)
        figure.draw_without_rendering()
        boxes = label_boxes(axes, report)
        if boxes is not None and (height >= ROOMY or is_near(axes, report, boxes)):
            draw_labels(axes, report, boxes)
            return figure
        height *= GROWTH


def draw(report: Report, own: int | None = None) -> str | None:
    """The chart for the page; None for a single artifact. `own` as in `size_against_kl`."""
    if len(report.results) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        return inline(size_against_kl(report, own=own), "size")


def coordinates(report: Report) -> np.ndarray:
    """MiB and KL of each artifact (n, 2); a KL that is noise is drawn below the smallest other."""
    kl = np.array([result.metrics.kl for result in report.results])
    least = kl[kl >= NOISE].min(initial=1.0)
    sizes = [result.bytes / 2**20 for result in report.results]
    return np.stack([sizes, np.where(kl >= NOISE, kl, least / 4)], axis=1)


def draw_points(axes: Axes, report: Report, own: int | None = None) -> None:
    """Everything but the labels. Filled marks are on the frontier, orange ones failed a gate, grey
    ones are not among the first `own`."""
    axes.set_yscale("log")
    at = coordinates(report)
    colours = [BLUE if own is None or place < own else GREY for place in range(len(at))]
    rows = zip(at, report.results, report.standings, colours, strict=True)
    for (x, y), result, stands, usual in rows:
        colour = ORANGE if result.rejected else usual
        fill = colour if stands.frontier else "none"
        error, mark = error_bar(result), "o" if result.metrics.kl >= NOISE else "v"
        axes.errorbar(
            x, y, error, fmt=mark, color=colour, markerfacecolor=fill, capsize=3, elinewidth=1
        )
    best = frontier_points(report)
    axes.step(best[:, 0], best[:, 1], where="post", color=BLUE, linewidth=1, alpha=0.6, zorder=1)
    if at[:, 0].max() > WIDE * at[:, 0].min():
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.margins(x=0.08)
    set_heights(axes, report)
    axes.set_xlabel("size, MiB")
    axes.set_ylabel("mean KL, nats a token")


def set_heights(axes: Axes, report: Report) -> None:
    """Limits and ticks of the axis of KL; it has no numbers where every KL is noise."""
    ends = coordinates(report)[:, 1] + error_bars(report) * np.array([[-1], [1]])  # (2, n)
    room = max((ends.max() / ends.min()) ** 0.1, 1.2)
    axes.set_ylim(ends.min() / room, ends.max() * room)
    if all(result.metrics.kl < NOISE for result in report.results):
        axes.yaxis.set_major_locator(ticker.NullLocator())
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        plain_ticks(axes.yaxis)


def error_bars(report: Report) -> np.ndarray:
    """Of all artifacts (2, n)."""
    return np.concatenate([error_bar(result) for result in report.results], axis=1)


def error_bar(result: ArtifactResult) -> np.ndarray:
    """The standard error downwards and upwards (2, 1); on a logarithmic axis it stays above 0."""
    kl, error = result.metrics.kl, result.metrics.kl_se
    if error is None or kl < NOISE:
        return np.zeros((2, 1))
    return np.array([[min(error, 0.9 * kl)], [error]])


def frontier_points(report: Report) -> np.ndarray:
    """MiB and KL of the artifacts on the frontier (f, 2), the smallest first."""
    on = [stands.frontier for stands in report.standings]
    best = coordinates(report)[on]
    return np.asarray(best[np.lexsort((best[:, 1], best[:, 0]))])


def plain_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, some of them also where it spans little."""
    low, high = axis.get_view_interval()
    if high / low < 4:
        axis.set_major_locator(ticker.MaxNLocator(5))
    else:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def in_points(axes: Axes, report: Report) -> np.ndarray:
    """Where the artifacts are drawn (n, 2), in points from the lower left of the figure."""
    return np.asarray(axes.transData.transform(coordinates(report))) * 72 / axes.figure.dpi


def chart_names(report: Report) -> list[str]:
    """What the labels say."""
    names = short_names([result.label for result in report.results])
    noise = [result.metrics.kl < NOISE for result in report.results]
    told = f" (KL < {NOISE:g})"
    return [name + told * low for name, low in zip(names, noise, strict=True)]


def label_boxes(axes: Axes, report: Report) -> np.ndarray | None:
    """Places of the labels (n, 4), in points; None without room."""
    pixels = axes.figure.dpi / 72
    sizes = np.array([text_size(axes, name) for name in chart_names(report)]) / pixels
    area = np.array(axes.get_window_extent().extents) / pixels
    return place(in_points(axes, report), sizes, area, line_boxes(axes, report) / pixels, GAP)


def is_near(axes: Axes, report: Report, boxes: np.ndarray) -> bool:
    """Whether no label is far from its point."""
    pairs = zip(in_points(axes, report), boxes, strict=True)
    return all(distances(point, box[None])[0] <= FAR for point, box in pairs)


def draw_labels(axes: Axes, report: Report, boxes: np.ndarray) -> None:
    """A name in each box; one that could be taken for another point's gets a line to its own."""
    at = in_points(axes, report)
    for name, point, box in zip(chart_names(report), at, boxes, strict=True):
        apart = distances(point, box[None])[0] > 1.5 * GAP
        draw_label(axes, name, point, box, apart or bool(ambiguous(point, box[None], at)[0]))


def draw_label(axes: Axes, name: str, point: np.ndarray, box: np.ndarray, line: bool) -> None:
    """A name in its box and, if asked for, a thin line to its point; all in figure points."""
    # a browser's letters may be narrower: what is beside a point stays beside it
    side = "left" if box[0] >= point[0] else "right" if box[2] <= point[0] else "center"
    x = {"left": box[0], "right": box[2], "center": (box[0] + box[2]) / 2}[side]
    at = (x, (box[1] + box[3]) / 2)
    axes.annotate(name, at, xycoords="figure points", fontsize=LABEL, ha=side, va="center")
    if line:
        axes.annotate(
            "",
            tuple(point),
            tuple(nearest(point, box[None])[0]),
            xycoords="figure points",
            textcoords="figure points",
            arrowprops=LEADER,
        )
    for drawn in axes.texts:
        drawn.set_in_layout(False)


def text_size(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height in pixels."""
    drawn = axes.text(0, 0, text, fontsize=LABEL, transform=axes.transAxes)
    extent = drawn.get_window_extent()
    drawn.remove()
    return extent.width, extent.height


def line_boxes(axes: Axes, report: Report) -> np.ndarray:
    """Boxes in pixels (m, 4) around the error bars and the parts of the frontier's line."""
    at, best = coordinates(report), frontier_points(report)
    errors = error_bars(report)
    low, high = (np.stack([at[:, 0], at[:, 1] + e], axis=1) for e in (-errors[0], errors[1]))
    corners = np.stack([best[1:, 0], best[:-1, 1]], axis=1)
    starts = np.concatenate([low, best[:-1], corners])
    stops = np.concatenate([high, corners, best[1:]])
    ends = [axes.transData.transform(points) for points in (starts, stops)]
    return np.concatenate([np.minimum(*ends) - 2, np.maximum(*ends) + 2], axis=1)


def check_path(path: Path) -> None:
    """Raise EdgequantError for a chart that cannot be written, before the time is spent."""
    if path.suffix not in FORMATS:
        raise InputError(f"a chart cannot be {path}; end its name in {' or '.join(FORMATS)}.")
    if path.exists():
        raise InputError(f"{path} exists; choose another name with --chart, or move it away.")
    if not path.absolute().parent.exists():
        raise InputError(f"{path.absolute().parent} does not exist; make the folder first.")
    check_folder(path.absolute().parent, "--chart")


def write(report: Report, path: Path) -> None:
    """The chart alone, on white, as .svg or .png. Raises as `check_path` does."""
    check_path(path)
    with matplotlib.rc_context(STYLE):
        save(size_against_kl(report, f"{report.original.name} (filled: on the frontier)"), path)


def save(figure: Figure, path: Path) -> None:
    """A figure drawn in our style, on white; equal figures make equal bytes."""
    with new_file(path) as temp:
        image_format = path.suffix.removeprefix(".")
        told = {"Date": None, "Creator": None} if image_format == "svg" else {"Software": None}
        figure.savefig(
            temp, format=image_format, dpi=DOTS_PER_INCH, facecolor="white", metadata=told
        )
