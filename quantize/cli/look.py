"""Commands that compute nothing: `show`, `verify`, `history` and `list`."""

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


def verify(
    file: Annotated[Path, typer.Argument(help="A .gguf file or a folder that this program wrote.")],
    as_json: options.Json = False,
) -> None:
    """Whether a file is as it was written, by the hashes in it; no model is needed. Else exit 1."""
    from quantize import verification

    result = verification.verify(file)
    show_result(result, verification.render(result), as_json)
    if result["changes"]:
        raise typer.Exit(1)


def history(
    folder: Annotated[Path, typer.Argument(help="Folder with report.json files.")],
    chart: Annotated[
        Path | None,
        typer.Option("--chart", help="File for the chart of KL and bytes: .svg or .png."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """KL and bytes over time, from the reports below a folder: same model and same text only."""
    from quantize.report import history, history_chart

    if chart is not None:
        history_chart.check_path(chart)
    found = history.history(folder)
    if chart is not None:
        history_chart.write(found, chart)
    show_result(found.to_json(), history.table(found), as_json)


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
