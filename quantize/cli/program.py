"""The program: its commands, in the order of `--help`, and their exit codes."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import quantize
from quantize.cli import interrupt, judge, look, make, system, use
from quantize.cli.screen import errors
from runtime.errors import EdgequantError, one_line
from runtime.panics import is_panic

COMMANDS: dict[str, Callable[..., None]] = {
    "run": make.run,
    "plan": make.plan,
    "convert": make.convert,
    "imatrix": make.imatrix,
    "mmproj": make.mmproj,
    "check": judge.check,
    "compare": judge.compare,
    "generate": use.generate,
    "score": use.score,
    "bench": use.bench,
    "verify": look.verify,
    "attest": judge.attest,
    "history": look.history,
    "show": look.show,
    "list": look.list_,
}
"""By the word that the user types, in the order of `--help`."""

app = typer.Typer(
    name="quantize",
    help="Quantize language models for laptops and phones, and prove the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def version(show_version: bool) -> None:
    """Print the version and leave."""
    if show_version:
        typer.echo(f"edgequant {quantize.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def run() -> int:
    """Run the command that the user typed; its exit code, see `quantize.cli.main`."""
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # the library exits with 1
            return system.CLOSED_PIPE
        return int(end.code or 0)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        interrupt.check()  # then it only complains about that
        if "--debug" in sys.argv:
            raise
        code, told = sentence(error)
        errors.print(Text.assemble(("error", "red"), " ", one_line(told)), soft_wrap=True)
        return code
    return 0


def sentence(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence of whatever stopped a command."""
    if isinstance(error, EdgequantError):
        from quantize.plan import spelling  # here, as `--help` waits for no numpy

        return 2, spelling.on_command_line(str(error))
    if isinstance(error, OSError) or system.is_memory(error):
        return 2, system.sentence(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return 3, (
        f"this is a fault of the program: {type(error).__name__}: {error} "
        f"({Path(where.filename).name}, line {where.lineno}). Please report it with what "
        "`quantize --debug ...` prints; nothing that was written before is lost."
    )
