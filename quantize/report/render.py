"""Show a report: a table for the terminal, a page for people, a card for a model hub."""

import json
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from export import CONTAINERS, ollama
from quantize.report import charts, frontier_chart, score_render, verdict
from quantize.report.beside import Beside
from quantize.report.layers import by_layer
from quantize.report.metrics import ENOUGH, Metrics
from quantize.report.report import ArtifactResult, GateValues, Report
from quantize.report.score_report import AnyReport, ScoreGates, ScoreReport, ScoreResult
from runtime import shell

TEMPLATES = Path(__file__).with_name("templates")
NONE = Beside()


def table(report: AnyReport) -> RenderableType:
    """A line for each artifact, a line for each of its domains, and notes."""
    if isinstance(report, ScoreReport):
        return score_render.table(report)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("artifact", overflow="fold")
    for name in ("bytes", "bits", "KL", "top-1", "ppl/original", "tokens/s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for result in report.results:
        rate = f"{result.speed.tokens_per_second:,.1f}"
        size, bits = f"{result.bytes:,}", f"{result.bits_per_weight:.2f}"
        label = Text(result.label, style="bold red" if result.rejected else "bold")
        shown.add_row(label, size, bits, *metric_cells(result.metrics), rate)
        for domain, metrics in result.domains.items():
            told = metrics if metrics.enough else replace(metrics, kl_se=None)
            shown.add_row(f"  {domain}", "", "", *metric_cells(told), "", style="dim")
        if images := result.images:
            shown.add_row("  after images", "", "", *metric_cells(images), "", style="dim")
    lines = [caption(report)]
    lines += [f"{r.label}: {tail(r.metrics)}" for r in report.results]
    if report.results and (line := verdict.too_few(report.results[0].domains)):
        lines.append(line)
    lines += [f"{r.label}: {note}" for r in report.results for note in r.notes]
    return Group(shown, *(Text(line) for line in (*lines, *report.notes)))


def tail(metrics: Metrics) -> str:
    """What the mean does not show, under the names that llama-perplexity prints."""
    p999 = "unknown" if metrics.kl_p999 is None else f"{metrics.kl_p999:.5f}"
    return (
        f"99% KL {metrics.kl_p99:.5f}, 99.9% KL {p999}, maximum {metrics.kl_max:.5f}; "
        f"{metrics.flipped:.2%} of top tokens flipped"
    )


def caption(report: Report) -> str:
    """What the figures of the table mean."""
    return (
        f"Against {report.original.name}: KL in nats a token ± standard error over "
        f"{report.evaluation.windows} windows of {report.evaluation.length} tokens; bits a weight; "
        "perplexity of artifact / original."
    )


def metric_cells(metrics: Metrics) -> tuple[str, str, str]:
    """KL, top-1 and perplexities for a table."""
    return (
        with_error(metrics.kl, metrics.kl_se),
        f"{metrics.top1:.1%}",
        f"{metrics.ppl:,.2f}/{metrics.ppl_original:,.2f}",
    )


def with_error(value: float, error: float | None) -> str:
    """0.00123±0.00004, or the value alone when its error is not known."""
    return f"{value:.5f}" + ("" if error is None else f"±{error:.5f}")


def html(report: AnyReport, others: Beside = NONE) -> str:
    """One self-contained page: no script, no font, no other file. Equal arguments, equal pages.

    `others` are drawn beside the report's own artifacts in the chart of size against KL.
    """
    css = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    if isinstance(report, ScoreReport):
        values = score_render.page_values(report)
        return _template("scores.html.jinja").render(report=report, css=css, **values)
    own = len(report.results)
    everyone = replace(report, results=(*report.results, *others.results))
    drawn = [
        {name: Markup(svg) for name, svg in charts.draw_result(result, place).items()}
        for place, result in enumerate(report.results)
    ]
    links = [f"#result-{place}" for place in range(own)] + list(others.links)
    rows = zip(everyone.results, everyone.standings, links, strict=True)
    return _template("report.html.jinja").render(
        report=report,
        headline=verdict.headline(report),
        conditions=verdict.conditions(report),
        size_chart=Markup(svg) if (svg := frontier_chart.draw(everyone, own)) else None,
        rows=sorted(rows, key=lambda row: (row[0].bytes, row[0].metrics.kl)),
        beaten=[line for stands in everyone.standings[:own] if (line := stands.sentence())],
        notes=[*report.notes, *others.notes],
        beside=bool(others.results),
        shown=list(zip(report.results, drawn, map(by_layer, report.results), strict=True)),
        commands=commands(report),
        enough=ENOUGH,
        css=css,
    )


def commands(report: Report) -> dict[str, list[str]]:
    """Command -> labels of the artifacts that it makes."""
    found: dict[str, list[str]] = {}
    for result in report.results:
        if result.command:
            found.setdefault(result.command, []).append(result.label)
    return found


def card(report: AnyReport, recipe: dict[str, Any], base_model: str | None = None) -> str:
    """README.md for the folder of artifacts: measured figures, and how to run the files.

    `base_model` is the original's id on a model hub, where it has one.
    """
    values = {"report": report, "recipe": recipe, "base_model": base_model}
    if isinstance(report, ScoreReport):
        found = score_render.page_values(report)
        return _template("scores_card.md.jinja").render(**values, **found)
    return _template("card.md.jinja").render(**values)


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda file: file is not None and ".html" in file,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "size": size,
        "with_error": with_error,
        "status": status,
        "limits": limits,
        "usage": usage,
        "visible": visible,
        "code": code,
        "percent": "{:.1%}".format,
        "told": verdict.sentence,
        "windows": verdict.windows,
    }
    return environment.get_template(name)


def size(count: int) -> str:
    """Bytes for people: "3.61 MiB"."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.2f} {unit}"


def status(result: ArtifactResult | ScoreResult) -> str:
    """A word on the gates."""
    if result.rejected:
        return "rejected"
    return "not measured" if result.open_questions else "passed"


def limits(gates: GateValues | ScoreGates) -> str:
    """The gates that were asked for, as their flags say it."""
    given = {name: value for name, value in asdict(gates).items() if value is not None}
    flags = [f"{name.replace('_', '-')} {value}" for name, value in given.items()]
    return ", ".join(flags) or "only soundness (no NaN, tokenizer round trip)"


def usage(result: ArtifactResult | ScoreResult, model: str) -> str:
    """How to run an artifact, in Markdown."""
    container = CONTAINERS[result.container]
    text, companion = container.usage, container.companion
    if isinstance(result, ScoreResult):
        text = container.scoring
    elif result.images and container.seeing:
        text = container.seeing
    return text.format(
        file=shell.word(result.file),
        literal=json.dumps(result.file, ensure_ascii=False),
        model=ollama.model_name(model),
        companion=shell.word(companion.path(Path(result.file)).name) if companion else "",
    )


def code(text: str) -> str:
    """Text as code in Markdown, in a table as well."""
    text = visible(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, gap = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{gap}{text}{gap}{fence}"


def visible(text: str) -> str:
    """Text with its line breaks and tabs shown as marks, for one line of a table.

    Where no letter would be seen at all, spaces are marks as well, and other characters numbers.
    """
    marked = text.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥")
    if any(map(seen, marked)):
        return marked
    return "".join("␣" if char == " " else f"U+{ord(char):04X}" for char in marked) or "∅"


def seen(char: str) -> bool:
    """Whether a character leaves a mark on paper."""
    return char.isprintable() and not char.isspace()
