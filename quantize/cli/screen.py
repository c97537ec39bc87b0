"""What a command prints: results to stdout, progress and complaints to stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
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


FAILED, OPEN = 1, 4
"""Exit codes where a gate failed, and where one that was asked for could not be measured."""


def finish_report(
    report: Any,
    as_json: bool,
    folder: Path,
    table: Callable[[Any], Any] | None = None,
    junit: Path | None = None,
) -> None:
    """Print a report, as the usual table unless another is given, and what failed.

    `folder` is that of the artifacts, for GitHub's annotations. Exits with 1 on a failed gate, and
    with 4 where none failed and one was not measured.
    """
    from quantize.report import for_ci, render

    show_result(report.to_json(), (table or render.table)(report), as_json)
    for word, lines in (("gate failed", report.failures), ("gate open", report.open_questions)):
        for line in lines:
            errors.print(Text.assemble((word, "red"), " ", line), soft_wrap=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in for_ci.annotations(report, folder):
            typer.echo(line, err=True)  # stdout may be JSON, and GitHub reads both
    if junit is not None:
        for_ci.write(report, junit)
    if report.failures or report.open_questions:
        raise typer.Exit(FAILED if report.failures else OPEN)
