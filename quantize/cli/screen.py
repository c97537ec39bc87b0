"""What a command prints: results to stdout, progress and complaints to stderr."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from runtime.errors import one_line

PIPE_WIDTH = 160
"""Columns of a table that goes into a file or another program."""


class Screen(Console):
    """A console that a text out of a file cannot steer: control characters are shown by name."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is written; the codes of the console's own stand apart in `Segment.control`."""
        for segment in super().render(renderable, options):
            if not segment.control and not segment.text.isprintable():
                lines = map(one_line, segment.text.split("\n"))
                segment = segment._replace(text="\n".join(lines))
            yield segment


# without markup: "[hub]" or a rule such as attn_[qk] is text
width = None if sys.stdout and sys.stdout.isatty() else PIPE_WIDTH  # it may be closed
console = Screen(highlight=False, markup=False, width=width)
errors = Screen(stderr=True, highlight=False, markup=False)


def show_result(result: Any, shown: Any, as_json: bool) -> None:
    """JSON or a table on stdout."""
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        console.print(shown, soft_wrap=isinstance(shown, str))  # a path is not broken


def finish_report(report: Any, as_json: bool, table: Callable[[Any], Any] | None = None) -> None:
    """Print a report, as the usual table unless another is given; exit with 1 on a failed gate."""
    from quantize.report import render

    show_result(report.to_json(), (table or render.table)(report), as_json)
    failures = report.failures
    for line in failures:
        errors.print(Text.assemble(("gate failed", "red"), " ", line), soft_wrap=True)
    if failures:
        raise typer.Exit(1)
