"""Make a checkpoint's vision tower into the file that llama.cpp takes beside the language model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import quantize
from export import mmproj
from export.files import check_target
from quantize.checkpoint import open_checkpoint
from quantize.vision import open_vision
from runtime.errors import InputError


def make(
    output: Path,
    model: str | None = None,
    kind: str = "F16",
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the tower of a checkpoint, its linears in `kind`; `say` is told what became otherwise.

    Raises EdgequantError before any work for a model without a tower, or one that llama.cpp would
    compute otherwise.
    """
    if output.suffix != ".gguf":
        raise InputError(f"{output} is no name of a GGUF file; give -o NAME.gguf.")
    if output.parent.exists():
        check_target(output, overwrite)
    checkpoint = open_checkpoint(model)
    vision = open_vision(checkpoint)
    if vision is None:
        raise InputError(
            f"{checkpoint.folder} has no vision tower of a known kind (its config.json has no "
            "vision_config, or is not Qwen's); give the checkpoint of a Qwen2-VL or Qwen2.5-VL."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    extra: dict[str, Any] = {
        "general.name": checkpoint.name,
        "edgequant.version": quantize.__version__,
        "edgequant.fingerprint": checkpoint.fingerprint(),
        "edgequant.vision_sha256": vision.sha256(),
    }
    for line in mmproj.write(output, *vision[:3], kind, extra, overwrite=overwrite):
        say(line)
