"""Read a safetensors file: where each array lies, told by the header, which is checked.

bytes 0..7    length of the header, uint64, little-endian
header        JSON: name -> {"dtype": .., "shape": [..], "data_offsets": [start, stop]}, and
              "__metadata__", which is left out
data          one array after the other without a gap; offsets count from its start
"""

import json
import math
from pathlib import Path
from typing import Any

from runtime.errors import CorruptFileError
from runtime.links import check_kind
from runtime.stored import ITEM_BYTES, MappedFile, StoredArray

POINTER = b"version https://git-lfs"
LENGTH = 8
"""Bytes of the header's length."""


def read(path: Path) -> dict[str, StoredArray]:
    """Every array by its name; nothing but the header has been read.

    Raises EdgequantError for a file that is cut short, damaged or no safetensors file.
    """
    check_kind(path)
    try:
        size = path.stat().st_size
        text = header(path)
    except OSError as error:
        raise damaged(path, error.strerror) from error
    if size < 1024 and path.read_bytes().startswith(POINTER):
        raise CorruptFileError(
            f"{path} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`."
        )
    if len(text) < 2:
        raise damaged(path, f"its {size:,} bytes hold no header")
    start = LENGTH + len(text)
    try:
        lines: dict[str, Any] = {
            name: line for name, line in json.loads(text).items() if name != "__metadata__"
        }
        places = {name: _place(line) for name, line in lines.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not a table of arrays") from error
    end = 0
    for name, (first, stop) in sorted(places.items(), key=lambda item: item[1]):
        if first != end:
            raise damaged(path, f"{name} starts at {first:,} of the data, not at {end:,}")
        end = stop
    if start + end != size:
        raise damaged(path, f"it has {size:,} bytes, not {start + end:,}")
    file = MappedFile(path)
    return {
        name: StoredArray(file, line["dtype"], tuple(line["shape"]), start + places[name][0])
        for name, line in lines.items()
    }


def header(path: Path) -> bytes:
    """The header's JSON, b"" when the file ends before it does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        return file.read(length) if LENGTH + length <= size else b""


def _place(line: dict[str, Any]) -> tuple[int, int]:
    """Start and stop of an array; ValueError, TypeError or KeyError for a line that is none."""
    start, stop = line["data_offsets"]
    numbers = [start, stop, *line["shape"]]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(numbers)
    # the type may be one that is not read here, which matters only when the array is read
    item = ITEM_BYTES.get(line["dtype"])
    if stop < start or item is not None and stop - start != math.prod(line["shape"]) * item:
        raise ValueError(line)
    return start, stop


def damaged(path: Path, reason: str | None) -> CorruptFileError:
    """The error of a file that cannot be used."""
    return CorruptFileError(f"{path} is cut short or damaged ({reason}); download it again.")
