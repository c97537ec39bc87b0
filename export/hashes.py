"""Hashes that an artifact holds of its own parts, so that a change is seen without a model.

A hash is the first 128 bits of SHA-256 in hexadecimal digits.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.memory import drop_pages

DIGITS = 32
NONE = "0" * DIGITS
"""Stands where a hash will be, and where one is while the part that it is in is hashed."""
CHUNK = 1 << 24
"""Bytes hashed at a time, whose pages are given back."""


def digest(*parts: bytes | memoryview) -> str:
    """The hash of bytes, one part after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:DIGITS]


def mapped_digest(data: np.ndarray) -> str:
    """That of an array in a mapped file."""
    flat = data.reshape(-1).view(np.uint8)
    found = hashlib.sha256()
    for start in range(0, len(flat), CHUNK):
        found.update(np.ascontiguousarray(flat[start : start + CHUNK]).data)
        drop_pages([flat[start : start + CHUNK]])
    return found.hexdigest()[:DIGITS]


def file_digest(path: Path, start: int = 0, length: int | None = None) -> str:
    """That of a file, or of `length` bytes of it from `start` on."""
    found = hashlib.sha256()
    left = path.stat().st_size - start if length is None else length
    with path.open("rb") as file:
        file.seek(start)
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()[:DIGITS]


def changed(what: str, found: Mapping[str, str], written: Mapping[str, str]) -> list[str]:
    """A sentence for each part that is not what was written, is missing, or came later."""
    told = [
        f"{what} {name} {'is missing' if name not in found else 'is not what was written'}"
        for name, hashed in written.items()
        if found.get(name) != hashed
    ]
    return told + [f"{what} {name} was not written with it" for name in found.keys() - written]


def filled_gaps(data: np.ndarray, places: Iterable[tuple[int, int]]) -> list[str]:
    """A sentence for bytes (n,) outside of all places (start, stop) that are not zeros."""
    end, told = 0, list[str]()
    for start, stop in sorted(places):
        if np.any(data[end:start]):
            told.append(f"bytes {end:,} to {start:,} belong to nothing, and are not zeros")
        end = max(end, stop)
    return told


def unhashed(path: Path) -> list[str]:
    """That an artifact holds no hashes."""
    raise InputError(f"{path} is of a format that holds no hashes; use quantize check.")


def no_hashes(path: Path) -> InputError:
    """The error of an artifact of a known format without any."""
    return InputError(
        f"{path} holds no hashes: another program wrote it, or an earlier version; compare it with "
        "its original: quantize check."
    )
