"""Commands that compute nothing: `show` and `list`."""

from pathlib import Path
from typing import Annotated

import typer

from quantize.cli import options
from quantize.cli.screen import show_result


def show(
    file: Annotated[
        Path, typer.Argument(help="A .gguf file, an ONNX folder or a checkpoint folder.")
    ],
    as_json: options.Json = False,
) -> None:
    """What is inside a file: sizes, types and bytes by tensor, provenance."""
    from quantize import inspection

    result = inspection.describe(file)
    show_result(result, inspection.render_description(result), as_json)


def list_(
    what: Annotated[
        str, typer.Argument(help="methods, rewrites, types, presets, archs or backends.")
    ] = "presets",
    as_json: options.Json = False,
) -> None:
    """What this version knows."""
    from quantize import inspection

    result = inspection.rows(what)
    show_result(result, inspection.render_rows(what, result), as_json)
