"""manifest.json of a work folder: the key of a run, and its finished stages."""

import json
import zlib
from pathlib import Path
from typing import Any

from msgspec import Struct

from runtime.errors import CorruptFileError
from runtime.json_files import checked, json_value


class Manifest(Struct):
    """What manifest.json holds."""

    crc32: int = 0
    """Of the rest, as `text` has it."""
    key: dict[str, dict[str, str]] = {}
    stages: dict[str, dict[str, Any]] = {}

    def rest(self) -> bytes:
        """What the checksum is of."""
        return json.dumps([self.key, self.stages]).encode()

    def text(self) -> bytes:
        """What is written."""
        values = {"crc32": zlib.crc32(self.rest()), "key": self.key, "stages": self.stages}
        return json.dumps(values).encode()


def read_manifest(manifest: Path) -> Manifest | None:
    """A manifest, None where there is none; a damaged one counts as that of another plan."""
    if not manifest.exists():
        return None
    try:
        found = checked(json_value(manifest), Manifest, str(manifest))
        return found if found.crc32 == zlib.crc32(found.rest()) else Manifest()
    except FileNotFoundError:  # it went away in between
        return None
    except CorruptFileError:
        return Manifest() if manifest.exists() else None
