"""Write docs/cli.md from what `--help` knows; run it after changing a flag."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from quantize.cli.program import app

PATH = Path(__file__).with_name("cli.md")

HEAD = """\
# The command line

Written by `docs/make_cli.py` from `quantize --help`; a test fails when it is out of date.

Results go to stdout, progress and messages to stderr. Every command has `--json`. Exit codes:

| code | meaning |
|---|---|
| 0 | done, and every gate held |
| 1 | a gate failed; the file is now called `NAME.rejected` |
| 2 | wrong usage or bad input; one sentence on stderr says what to do |
| 3 | a fault of the program; one sentence says which, and asks for a report |
| 4 | a gate that was asked for could not be measured, and none failed |
| 130 | interrupted; the same `run` goes on after its last finished stage |
| 141 | nobody reads the output any more (a closed pipe) |
"""


def text() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    root = group.make_context("quantize", [], resilient_parsing=True)
    parts = [HEAD, "## Before the command\n", *table(group.get_params(root))]
    for name, command in group.commands.items():
        context = command.make_context(name, [], parent=root, resilient_parsing=True)
        parameters = command.get_params(context)
        parts += [f"\n## quantize {name}\n", f"{command.help}\n", *usage(name, parameters)]
        parts += table(parameters)
    return "\n".join(parts) + "\n"


def usage(name: str, parameters: list[Any]) -> list[str]:
    """The command with its arguments; those that may be left out stand in brackets."""
    words = []
    for argument in (p for p in parameters if p.param_type_name == "argument"):
        word = argument.name.upper() + ("..." if argument.nargs != 1 else "")
        words.append(word if argument.required else f"[{word}]")
    return ["```text", " ".join(["quantize", name, *words, "[OPTIONS]"]), "```\n"]


def table(parameters: list[Any]) -> list[str]:
    """Arguments and options, one a row, in the order of `--help`."""
    return ["| argument or option | what it does |", "|---|---|", *map(row, parameters)]


def row(parameter: Any) -> str:
    """Spellings, then help and default."""
    if parameter.param_type_name == "argument":
        return f"| `{parameter.name.upper()}` | {parameter.help} |"
    value = "" if parameter.is_flag else " VALUE"
    names = ", ".join(f"`{name}{value}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return f"| {names} | {' '.join(notes(parameter))} |"


def notes(option: Any) -> Iterator[str]:
    """The help of an option, and its default where the help does not say it."""
    if option.help:
        yield option.help.replace("|", "\\|")
    if option.multiple and "repeatable" not in (option.help or ""):
        yield "Repeatable."
    told = option.default is None or option.is_flag or "Default" in (option.help or "")
    if not told:
        yield f"Default: {option.default}."


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
