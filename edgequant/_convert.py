"""`edgequant.convert`: from one format to another, its codes kept."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgequant._settings import Progress, StrPath, in_python, silent

if TYPE_CHECKING:
    from quantize.run.convert import Conversion


@in_python()
def convert(
    model: StrPath | None = None,
    to: str = "gguf",
    output: StrPath = "dist",
    *,
    exact: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "Conversion":
    """Write a model in another format, its codes kept wherever the format's grids hold them.

    model: checkpoint folder, quantized or not, hub id or GGUF file; None = the bundled one. to: the
    container: "gguf", "onnx", "onnx-f16", "gptq" or "awq". output: folder of the artifact. exact:
    refuse where a weight would have to be rounded. progress: as in `quantize`.

    Nothing is printed. Raises EdgequantError, before anything is written, for what cannot be done,
    and OSError for files that may not be read or written.
    """
    from quantize.plan import spelling
    from quantize.run import convert as conversion

    source = None if model is None else os.fspath(model)
    notes: list[str] = []
    made = conversion.convert(
        source,
        to,
        Path(output),
        exact=exact,
        overwrite=overwrite,
        progress=progress or silent,
        say=notes.append,
    )
    return replace(made, notes=tuple(map(spelling.in_python, notes)))
