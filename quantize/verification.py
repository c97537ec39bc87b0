"""Whether an artifact is as it was written: `quantize verify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export import CONTAINERS
from quantize.loading import files_of
from runtime.containers import recognise
from runtime.errors import InputError


def verify(path: Path) -> dict[str, Any]:
    """The changes since an artifact was written, as JSON values.

    Raises EdgequantError for one that cannot be read, or holds no hashes.
    """
    kind = recognise(path).name
    if kind not in CONTAINERS:
        raise InputError(f"{path} is a {kind} and holds no hashes; give a file that was quantized.")
    return {
        "file": str(path),
        "container": kind,
        "bytes": sum(file.stat().st_size for file in files_of(path)),
        "changes": CONTAINERS[kind].verify(path),
    }


def render(result: dict[str, Any]) -> str:
    """A line that it is whole, or one for each change."""
    whole = f"all {result['bytes']:,} bytes are as they were written"
    return lines(result["file"], result["changes"], whole)


def lines(file: str, found: Sequence[str], whole: str) -> str:
    """A line for each thing that was found of a file, or that it is `whole`."""
    return "\n".join(f"{file}: {sentence}" for sentence in found or [whole])
