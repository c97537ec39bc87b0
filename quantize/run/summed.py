"""Files that end with a checksum of themselves: what a disk gives back otherwise is told.

bytes 0..n-1   the file
bytes n..n+3   their CRC-32, little-endian
"""

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

SUM = 4
"""Bytes of the checksum."""
PIECE = 1 << 22


class Summed(io.RawIOBase):
    """A file to write from its start to its end; it cannot be sought, as a pipe cannot."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Append bytes; returns how many."""
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)

    def end(self) -> None:
        """Append the checksum."""
        self.file.write(self.crc.to_bytes(SUM, "little"))


def is_sound(path: Path) -> bool:
    """Whether a file is what was written. Raises OSError where it cannot be read."""
    left, crc = path.stat().st_size - SUM, 0
    with path.open("rb") as file:
        while left > 0:
            piece = file.read(min(PIECE, left))
            if not piece:
                return False
            crc, left = zlib.crc32(piece, crc), left - len(piece)
        return file.read() == crc.to_bytes(SUM, "little")
