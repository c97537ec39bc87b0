"""Charts of a report as inline SVG, in colours that read on light and dark, on screen and paper."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from quantize.report.report import ArtifactResult
from quantize.report.scan import TensorFact
from runtime.tensor import is_matrix

INK = "#010203"
"""Stands for the page's text colour: replaced by currentColor, so that a dark page works too."""
BLUE, ORANGE, GREY = "#0a7ec2", "#d9740b", "#8a8a8a"
KINDS = (
    "#0a7ec2",
    "#d9740b",
    "#159a78",
    "#c0569b",
    "#8a8a8a",
    "#c9a400",
    "#5b5fc7",
    "#a0522d",
    "#b5485d",
)
WIDTH, HEIGHT = 4.2, 2.7  # inches; a phone shows it at about three quarters

STYLE: Any = {
    "svg.hashsalt": "edgequant",
    "svg.fonttype": "none",
    "font.size": 11.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw_result(result: ArtifactResult, place: int) -> dict[str, str]:
    """Charts of one artifact, the `place`-th of its report; those without data are left out."""
    charts: dict[str, tuple[Callable[[Axes], None], float]] = {
        "histogram": (lambda axes: kl_histogram(axes, result), HEIGHT)
    }
    if len(result.positions) > 1:
        charts["positions"] = (lambda axes: kl_by_position(axes, result), HEIGHT)
    if any(fact.kl is not None and fact.name.startswith("blk.") for fact in result.tensors):
        charts["tensors"] = (lambda axes: kl_by_tensor(axes, result), HEIGHT)
    if result.tensors:
        charts["bytes"] = (lambda axes: bytes_by_tensor(axes, result), HEIGHT + 0.7)
    return {name: svg(fill, f"{name}{place}", high) for name, (fill, high) in charts.items()}


def svg(fill: Callable[[Axes], None], prefix: str, height: float) -> str:
    """The SVG element of one chart; `prefix` makes its ids its own in the page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        fill(figure.subplots())
        return inline(figure, prefix)


def inline(figure: Figure, prefix: str) -> str:
    """A figure drawn in our style as an SVG element; `prefix` as in `svg`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page scales it and its caption says what it is
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1
    )


def kl_histogram(axes: Axes, result: ArtifactResult) -> None:
    """Tokens by KL, with the mean and the 99th percentile marked."""
    edges, counts = np.array(result.histogram.edges), np.array(result.histogram.counts)
    used = np.flatnonzero(counts)
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.85)
    axes.set_xscale("log")
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
    for value, name in ((result.metrics.kl, "mean"), (result.metrics.kl_p99, "99th percentile")):
        if value > edges[0]:
            axes.axvline(value, color=ORANGE, linewidth=1, linestyle="-" if name == "mean" else ":")
            axes.annotate(
                f" {name}",
                (value, 1),
                (2, -9),
                ("data", "axes fraction"),
                "offset points",
                fontsize=10,
            )
    axes.set_xlabel("KL of a token, nats")
    axes.set_ylabel("tokens")


def kl_by_position(axes: Axes, result: ArtifactResult) -> None:
    """Steps over the ranges of positions, on a logarithmic axis, with standard errors."""
    found = result.positions
    edges = (
        np.array([place.first for place in found] + [found[-1].last + 1]) + 1.0
    )  # counted from 1
    kl = np.array([place.kl for place in found])
    error = np.array([place.kl_se or 0.0 for place in found])
    axes.stairs(kl, edges, baseline=None, color=BLUE, linewidth=1.6)
    if error.any():
        low = np.maximum(kl - error, 0)
        axes.stairs(kl + error, edges, baseline=low, fill=True, color=BLUE, alpha=0.2)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("position in the window, tokens")
    axes.set_ylabel("mean KL, nats")


def kl_by_tensor(axes: Axes, result: ArtifactResult) -> None:
    """A map: kinds of tensors by layer, coloured by the KL of each one alone."""
    table, kinds, layers = grid([fact for fact in result.tensors if fact.kl is not None])
    values = np.array([[fact.kl if fact else np.nan for fact in row] for row in table], float)
    positive = values[values > 0]
    norm = LogNorm(positive.min(), positive.max() * 1.01) if positive.size else None
    picture = axes.pcolormesh(np.where(values > 0, values, np.nan), norm=norm, cmap="viridis")
    axes.set_yticks(np.arange(len(kinds)) + 0.5, kinds)
    axes.invert_yaxis()
    step = max(1, len(layers) // 12)
    axes.set_xticks(np.arange(0, len(layers), step) + 0.5, layers[::step])
    axes.set_xlabel("layer")
    axes.figure.colorbar(picture, ax=axes, label="KL when replaced alone")


def bytes_by_tensor(axes: Axes, result: ArtifactResult) -> None:
    """Bytes of each layer, stacked by kind of tensor; parts outside the layers stand alone."""
    places: dict[str, int] = {}
    for fact in result.tensors:
        places.setdefault(place_of(fact.name), len(places))
    large = dict.fromkeys(kind_of(fact.name) for fact in result.tensors if is_matrix(fact.shape))
    base = np.zeros(len(places))
    for kind, colour in zip([*large, "norms, biases"], KINDS * 3, strict=False):
        heights = np.zeros(len(places))
        for fact in result.tensors:
            if kind == (kind_of(fact.name) if is_matrix(fact.shape) else "norms, biases"):
                heights[places[place_of(fact.name)]] += fact.bytes / 2**20
        axes.bar(range(len(places)), heights, bottom=base, color=colour, label=kind)
        base += heights
    thin_labels(axes, [short(place) for place in places])
    axes.set_xlabel("layer, or part outside the layers")
    axes.set_ylabel("MiB")
    axes.figure.legend(loc="outside upper center", ncols=3, handlelength=1, columnspacing=1)


def grid(facts: list[TensorFact]) -> tuple[list[list[TensorFact | None]], list[str], list[str]]:
    """Facts of the layers' tensors as rows of kinds and columns of layers, with both names."""
    inside = [fact for fact in facts if fact.name.startswith("blk.")]
    kinds = list(dict.fromkeys(kind_of(fact.name) for fact in inside))
    layers = list(dict.fromkeys(place_of(fact.name) for fact in inside))
    found = {(kind_of(fact.name), place_of(fact.name)): fact for fact in inside}
    table = [[found.get((kind, layer)) for layer in layers] for kind in kinds]
    return table, kinds, [short(layer) for layer in layers]


def kind_of(name: str) -> str:
    """ "blk.3.attn_q.weight" -> "attn_q"."""
    return name.split(".")[-2]


def place_of(name: str) -> str:
    """ "blk.3.attn_q.weight" -> "blk.3"; a tensor outside the layers is its own place."""
    return ".".join(name.split(".")[:2]) if name.startswith("blk.") else name


def short(place: str) -> str:
    """ "blk.3" -> "3", "token_embd.weight" -> "embedding"."""
    names = {"token_embd": "embed", "output": "head", "output_norm": "norm"}
    first, second = place.split(".")[:2]
    return second if first == "blk" else names.get(first, first)


def thin_labels(axes: Axes, names: list[str]) -> None:
    """Tick labels below bars; numbers are thinned out, words always shown and turned."""
    step = max(1, len(names) // 14)
    shown = [i for i, name in enumerate(names) if not name.isdigit() or int(name) % step == 0]
    axes.set_xticks(shown, [names[i] for i in shown])
    for label in axes.get_xticklabels():
        if not label.get_text().isdigit():
            label.set(rotation=90, fontsize=10)
