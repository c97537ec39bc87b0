"""Step through the bytes of a GGUF header, each step checked against the end of the file."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import CorruptFileError

LENGTH = struct.Struct("<Q")
"""What stands before a string: its bytes."""


MOST_NAME = 2**16 - 1
"""Bytes of a key, by GGUF's specification."""


class Cursor:
    """A place in the file; every step forward is checked against its end."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path, self.view, self.at = path, view, 0

    def need(self, count: int) -> None:
        """Raise EdgequantError unless `count` more bytes follow."""
        self.need_until(self.at + count)

    def need_until(self, end: int) -> None:
        """Raise EdgequantError unless the file has `end` bytes."""
        if end > len(self.view):
            raise CorruptFileError(
                f"{self.path} is cut short or damaged: {end - len(self.view):,} bytes are missing "
                f"after its {len(self.view):,}; copy or download it again."
            )

    def damaged(self, what: str) -> CorruptFileError:
        """The error for content that cannot be right."""
        return CorruptFileError(f"{self.path} is damaged: {what}; copy or download it again.")

    def raw(self, count: int) -> memoryview:
        """The next bytes."""
        self.need(count)
        self.at += count
        return self.view[self.at - count : self.at]

    def number(self, kind: str) -> Any:
        """The next number, of a numpy type."""
        return np.frombuffer(self.raw(np.dtype(kind).itemsize), kind)[0].item()

    def numbers(self, kind: str, count: int) -> np.ndarray:
        """The next `count` numbers, mapped."""
        return np.frombuffer(self.raw(np.dtype(kind).itemsize * count), kind)

    def name(self) -> str:
        """The next string, when it is as short as GGUF wants names to be."""
        self.need(LENGTH.size)
        length = LENGTH.unpack_from(self.view, self.at)[0]
        self.need(LENGTH.size + length)
        if length > MOST_NAME:
            raise self.damaged(f"a name at byte {self.at} has {length:,} bytes")
        return self.string()

    def string(self) -> str:
        """The next string."""
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """The next `count` strings."""
        view, at, found = self.view, self.at, []
        for _ in range(count):  # a vocabulary has 300,000: no call of ours for each
            self.at = at
            start = at + LENGTH.size
            if start > len(view):
                self.need_until(start)
            at = start + LENGTH.unpack_from(view, start - LENGTH.size)[0]
            if at > len(view):
                self.need_until(at)
            try:
                found.append(str(view[start:at], "utf-8"))
            except UnicodeDecodeError as error:
                raise self.damaged(f"the text before byte {at} is not UTF-8") from error
        self.at = at
        return found
