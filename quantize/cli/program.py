"""The program: its commands, in the order of `--help`, and how it ends."""

import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from rich.text import Text

import quantize
from quantize.cli import judge, look, make, use
from quantize.cli.screen import errors
from runtime.errors import EdgequantError


class Interrupted(Exception):
    """Ctrl-C during a command, which typer would turn into a bare exit code."""


class Commands(typer.core.TyperGroup):
    """The commands, with a Ctrl-C that `main` sees."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(ctx.invoked_subcommand) from None


COMMANDS: dict[str, Callable[..., None]] = {
    "run": make.run,
    "plan": make.plan,
    "imatrix": make.imatrix,
    "check": judge.check,
    "compare": judge.compare,
    "generate": use.generate,
    "bench": use.bench,
    "show": look.show,
    "list": look.list_,
}
"""By the word that the user types, in the order of `--help`."""

app = typer.Typer(
    name="quantize",
    cls=Commands,
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


def main() -> NoReturn:
    """Run the command line: exit 0 ok, 1 a gate failed, 2 usage or bad input, 130 interrupted."""
    try:
        app()
    except Interrupted as command:
        again = "; run the same command again to go on after the last finished stage"
        errors.print(f"interrupted{again if command.args[0] == 'run' else ''}.", soft_wrap=True)
        sys.exit(130)
    except (EdgequantError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        errors.print(Text.assemble(("error", "red"), " ", str(error)), soft_wrap=True)
        sys.exit(2)
    sys.exit(0)
