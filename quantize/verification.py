"""Whether an artifact is as it was written: `quantize verify`."""

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
    if not result["changes"]:
        return f"{result['file']}: all {result['bytes']:,} bytes are as they were written"
    return "\n".join(f"{result['file']}: {change}" for change in result["changes"])
