"""Checkpoints that tests change, and their artifacts."""

import json
from pathlib import Path
from typing import Any

import edgequant


def edit(folder: Path, file: str = "config.json", **values: Any) -> None:
    path = folder / file
    found = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps(found))


def made(folder: Path, to: str, **settings: Any) -> Path:
    """The artifact of a checkpoint, rounded to nearest and not judged."""
    flags = {"method": "rtn", "check": False, "overwrite": True} | settings
    output = folder.parent / "out"
    return edgequant.quantize(folder, to=to, output=output, **flags).artifacts[0].path
