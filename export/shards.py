"""Write safetensors files, a tensor at a time, as transformers names the parts of a model.

    model-00001-of-00002.safetensors   arrays as they came, at most LARGEST bytes a file
    model.safetensors.index.json       which array is in which file; not beside a single file

A header stands before the data, and says where each array ends: room is left for the header of a
file with every array of the model, and filled with spaces, which readers skip. `Places` alone
counts the same files without writing them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.hashes import digest
from export.shard_hashes import FILES_ROOM, array_digest, hash_room, sealed
from runtime.errors import CorruptFileError
from runtime.safetensors_file import LENGTH, read
from runtime.sources import INDEX, WEIGHTS
from runtime.stored import ITEM_BYTES

LARGEST = 5_000_000_000
"""Bytes of arrays in one file, unless a single one is larger: transformers' own limit."""

LINE = 128
"""Bytes of an array's line in a header beside its name, at most."""


class Array(NamedTuple):
    """An array to come."""

    name: str
    dtype: str
    """As in ITEM_BYTES."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass
class Places:
    """Where arrays stand."""

    metadata: Mapping[str, str]
    """Of the first file."""
    room: int
    """Bytes before the data of each file: see `room_for`."""
    largest: int = LARGEST
    files: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """Array -> its line in the header, for each file."""
    ends: list[int] = field(default_factory=list)
    """Bytes of data in each file."""

    def add(self, array: Array) -> tuple[int, int]:
        """Give the next array its place: number of the file, and offset in it."""
        if not self.ends or self.ends[-1] and self.ends[-1] + array.nbytes > self.largest:
            self.files.append({})
            self.ends.append(0)
        start = self.ends[-1]
        self.ends[-1] = stop = start + array.nbytes
        line = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [start, stop]}
        self.files[-1][array.name] = line
        return len(self.files) - 1, self.room + start

    @property
    def names(self) -> list[str]:
        """Of the files."""
        count = len(self.files)
        if count == 1:
            return [WEIGHTS]
        return [f"model-{at:05}-of-{count:05}.safetensors" for at in range(1, count + 1)]

    def index(self) -> dict[str, bytes]:
        """The index by its name; nothing for a single file."""
        if len(self.files) == 1:
            return {}
        weights = {
            array: name
            for name, lines in zip(self.names, self.files, strict=True)
            for array in lines
        }
        table = {"metadata": {"total_size": sum(self.ends)}, "weight_map": weights}
        return {INDEX: (json.dumps(table, indent=2) + "\n").encode()}

    def header(self, number: int) -> bytes:
        """What stands before the data of a file."""
        own = self.metadata if number == 0 else {}
        lines = {"__metadata__": {"format": "pt", **own}, **self.files[number]}
        text = json.dumps(lines, separators=(",", ":")).encode()
        assert len(text) <= self.room - LENGTH, f"a header of {len(text)} bytes"
        return (self.room - LENGTH).to_bytes(LENGTH, "little") + text.ljust(self.room - LENGTH)

    @property
    def size(self) -> int:
        """Bytes of all files and of the index."""
        written = sum(self.room + end for end in self.ends)
        return written + sum(map(len, self.index().values()))


def room_for(arrays: list[str], metadata: Mapping[str, str]) -> int:
    """Bytes that hold any header of a model with arrays of these names."""
    texts = len(json.dumps(dict(metadata)).encode())
    lines = sum(len(json.dumps(name)) + LINE + hash_room(name) for name in arrays)
    return -(-(LENGTH + LINE + texts + lines + FILES_ROOM) // 64) * 64


class ShardWriter:
    """The files of a model while they are written into `folder`."""

    def __init__(self, folder: Path, places: Places) -> None:
        self.folder, self.places = folder, places
        self.sums: dict[str, str] = {}
        """Hash by array."""

    def add(self, array: Array, data: np.ndarray) -> None:
        """Append an array, of which `data` has the bytes in order."""
        number, offset = self.places.add(array)
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        assert raw.nbytes == array.nbytes, array
        self.sums[array.name] = array_digest(array.dtype, array.shape, raw)
        path = self._part(number)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(raw)

    def finish(self, small: Mapping[str, bytes]) -> None:
        """Write headers, index and small files, and give the files their names.

        Raises CorruptFileError for an array that does not read back as it was written.
        """
        beside = dict(small) | self.places.index()
        files = {name: digest(content) for name, content in beside.items()}
        self.places.metadata = sealed(self.places.metadata, self.sums, files)
        for number, name in enumerate(self.places.names):
            with self._part(number).open("r+b") as file:
                file.write(self.places.header(number))
            self._part(number).rename(self.folder / name)
            for array, stored in read(self.folder / name).items():
                if array_digest(stored.dtype, stored.shape, stored.read().data) != self.sums[array]:
                    raise CorruptFileError(
                        f"{array} does not read back as it was written; check the disk and write "
                        "again."
                    )
        for name, content in beside.items():
            (self.folder / name).write_bytes(content)

    def _part(self, number: int) -> Path:
        return self.folder / f"{number}.part"
