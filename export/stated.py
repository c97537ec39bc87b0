"""What an artifact says beside its weights, next to what it must say of its checkpoint."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MISSING = object()
"""Stands for what is not there."""


@dataclass(frozen=True)
class Difference:
    """Something that has one right answer, and another one in an artifact."""

    where: str
    """Such as "qwen2.rope.freq_base", or "config.json: rope_theta"."""
    found: str
    expected: str

    def sentence(self) -> str:
        """Where, and both values."""
        return f"{self.where} is {self.found}, and must be {self.expected}"


@dataclass(frozen=True)
class Stated:
    """Facts by their names: numbers, texts, lists, arrays, and mappings of them.

    In a `whole` one, which our writer made, nothing may be found that is not expected; else what
    only one side has is not compared.
    """

    found: Mapping[str, Any]
    expected: Mapping[str, Any]
    whole: bool

    def differences(self) -> list[Difference]:
        """Each fact that is not as it must be."""
        told: list[Difference] = []
        for name in sorted(self.found.keys() | self.expected.keys()):
            pair = self.found.get(name, MISSING), self.expected.get(name, MISSING)
            if self.whole or all(side is not MISSING for side in pair):
                told += compared(name, *pair)
        return told


def compared(where: str, found: Any, expected: Any) -> Iterator[Difference]:
    """The differences of two values, each named as closely as can be."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in dict.fromkeys((*expected, *found)):
            name = f"{where}: {key}" if ": " not in where else f"{where}.{key}"
            yield from compared(name, found.get(key, MISSING), expected.get(key, MISSING))
    elif is_list(found) and is_list(expected):
        yield from _lists(where, found, expected)
    elif isinstance(found, str) and isinstance(expected, str) and len(found + expected) > LONG:
        yield from _texts(where, found, expected)
    elif not same(found, expected):
        yield Difference(where, shown(found), shown(expected))


def _lists(where: str, found: Any, expected: Any) -> Iterator[Difference]:
    """Both lengths, or the first place that differs and how many do."""
    if len(found) != len(expected):
        yield Difference(where, f"{len(found):,} values", f"{len(expected):,}")
        return
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray):
        places = np.flatnonzero((found != expected).reshape(len(found), -1).any(1)).tolist()
    else:
        pairs = zip(found, expected, strict=True)
        places = [at for at, (one, other) in enumerate(pairs) if not same(one, other)]
    if places:
        first = places[0]
        more = f" ({len(places):,} of {len(found):,} differ)" if len(places) > 1 else ""
        name = f"{where}[{first}]"
        if isinstance(found[first], dict) and isinstance(expected[first], dict):
            told = next(compared(name, found[first], expected[first]))
            yield Difference(told.where, told.found, told.expected + more)
        else:
            yield Difference(name, shown(found[first]), shown(expected[first]) + more)


def _texts(where: str, found: str, expected: str) -> Iterator[Difference]:
    """Where two long texts differ first, with some characters before."""
    if found == expected:
        return
    pairs = zip(found, expected, strict=False)
    at = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    at = min(len(found), len(expected)) if at is None else at
    start = max(0, at - 10)
    ends = (
        shown(text[start : start + LONG]) if text[start:] else "over" for text in (found, expected)
    )
    yield Difference(f"{where}, at character {at},", *ends)


LONG = 60
"""Characters of a text that are shown whole."""


def is_list(value: Any) -> bool:
    """Whether a value is a list or an array."""
    return isinstance(value, list | tuple) or isinstance(value, np.ndarray) and value.ndim > 0


def same(found: Any, expected: Any) -> bool:
    """Whether two values are one; numbers are those of float32."""
    if found is MISSING or expected is MISSING:
        return found is expected
    found, expected = (v.item() if isinstance(v, np.generic) else v for v in (found, expected))
    if isinstance(found, bool) or isinstance(expected, bool):
        return type(found) is type(expected) and found == expected
    if isinstance(found, float) or isinstance(expected, float):
        numbers = isinstance(found, float | int) and isinstance(expected, float | int)
        return numbers and bool(np.float32(found) == np.float32(expected))
    return bool(found == expected)


def shown(value: Any) -> str:
    """A value on one line."""
    if value is MISSING:
        return "missing"
    if is_list(value) and len(value) > 8:
        return f"a list of {len(value):,}"
    if isinstance(value, dict) and len(value) > 3:
        return f"{len(value):,} entries"
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 2 * LONG else f"{text[: 2 * LONG]}..."


def json_or_bytes(content: bytes) -> Any:
    """The values of a JSON file, else its text."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", errors="replace")


def files_of(folder: Path, expected: Mapping[str, bytes], beside: frozenset[str]) -> Stated:
    """The small files of a folder, each by its values; `beside` names those compared elsewhere."""
    found = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name not in beside
    }
    # most are equal, and reading a large tokenizer.json takes a second
    differ = {n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)}

    def values(side: Mapping[str, bytes]) -> dict[str, Any]:
        return {name: json_or_bytes(side[name]) for name in side if name in differ}

    return Stated(values(found), values(expected), whole=True)


def unstated(path: Path, arch: object, source: Path, vision: object) -> Stated:
    """That nothing is compared beside what a reader makes of an artifact."""
    return Stated({}, {}, whole=False)
