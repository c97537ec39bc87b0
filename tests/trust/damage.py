"""Damaged copies of files, made with a seed: JSON by its structure, GGUF by its pairs, bytes."""

import copy
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.gguf_header import read_header
from tests.mutations import VALUES, places

LARGE: tuple[Any, ...] = (10**9, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 1e308, -1e-320)
TEXTS: tuple[str, ...] = (
    "x" * 100_000,
    "../outside",
    "/dev/null",
    "a\nb\x1b[31mc\x07",
    "{{ undefined }}",
    "{% for",
    "\0",
    "%d%s",
    "é́日\u202e",
)


def deep(levels: int, inner: Any = 1) -> Any:
    """Lists in lists."""
    for _ in range(levels):
        inner = [inner]
    return inner


def another(draw: random.Random, value: Any) -> Any:
    """What may stand in place of a JSON value: another kind, another size, another shape."""
    choice = draw.random()
    if choice < 0.4:
        return draw.choice(VALUES)
    if choice < 0.55:
        return draw.choice(LARGE)
    if choice < 0.65:
        return draw.choice(TEXTS)
    if choice < 0.7:
        return deep(draw.choice((3, 50, 400)))
    if isinstance(value, bool) or value is None:
        return draw.choice((1, "true", [value]))
    if isinstance(value, int | float):
        return draw.choice((-value, value + 1, value * 1000, [[value]], value == 0, [value]))
    if isinstance(value, str):
        return draw.choice((value[:-1], value * 2, value.upper(), [value], {"content": value}))
    if isinstance(value, list):
        table = {str(at): each for at, each in enumerate(value[:50])}
        return draw.choice((value[:-1], value * 2, [value], table))
    items = list(value.items())
    return draw.choice((dict(items[:-1]), list(value.values()), [value], dict.fromkeys(value)))


def json_copy(draw: random.Random, value: Any) -> tuple[str, Any]:
    """What was changed, and the changed copy: one to three places."""
    changed, told = copy.deepcopy(value), []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        known = list(places(changed))
        if not known:
            break
        *above, last = where = draw.choice(known)
        inner = changed
        for key in above:
            inner = inner[key]
        if draw.random() < 0.12:
            del inner[last]
            told.append(f"without {where}")
        elif draw.random() < 0.05 and isinstance(inner, dict):
            inner[draw.choice(TEXTS)] = inner[last]
            told.append(f"another key beside {where}")
        else:
            inner[last] = another(draw, inner[last])
            told.append(f"{where} = {inner[last]!r:.60}")
    return "; ".join(told), changed


def json_bytes(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """A damaged JSON file."""
    if draw.random() < 0.15:
        return some_bytes(draw, data)
    what, changed = json_copy(draw, json.loads(data))
    return what, json.dumps(changed).encode()


def some_bytes(draw: random.Random, data: bytes, most: int = 1 << 16) -> tuple[str, bytes]:
    """Bytes flipped, cut, put in, taken out or doubled, among the first `most`."""
    end, kind = min(len(data), most), draw.randrange(6)
    at = draw.randrange(end + 1)
    if kind == 0:
        return f"cut at {at}", data[:at]
    if kind == 1:
        return f"bytes put in at {at}", data[:at] + draw.randbytes(draw.choice((1, 7, 300))) + data[
            at:
        ]
    if kind == 2:
        return f"bytes taken out at {at}", data[:at] + data[at + draw.choice((1, 7, 300)) :]
    if kind == 3:
        return f"a piece of {at} again", data[:at] + data[max(0, at - 40) : at] + data[at:]
    if kind == 4:
        word = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
        return f"{word} at {at}", data[:at] + struct.pack("<Q", word) + data[at + 8 :]
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        changed[draw.randrange(end)] ^= 1 << draw.randrange(8)
    return "flipped bits", bytes(changed)


# GGUF ------------------------------------------------------------------------------------------

NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"} | {
    11: "<q",
    12: "<d",
}
Pair = tuple[str, int, Any]
"""Key, value type, value; of an array (type, values)."""


def gguf_parts(path: Path) -> tuple[list[Pair], list[tuple[str, tuple[int, ...], int, int]], bytes]:
    """Pairs, lines of the tensor table, and the data."""
    header = read_header(path)
    pairs = [(key, *_typed(value)) for key, value in header.metadata.items()]
    table = [(line.name, line.shape, line.ggml_type, line.offset) for line in header.table]
    return pairs, table, header.bytes[header.start :].tobytes()


def _typed(value: Any) -> tuple[int, Any]:
    if isinstance(value, np.ndarray):
        kind = 7 if value.dtype == bool else 6 if value.dtype.kind == "f" else 5
        return 9, (kind, value.tolist())
    if isinstance(value, list):
        return 9, (8, value)
    if isinstance(value, bool):
        return 7, value
    if isinstance(value, str):
        return 8, value
    return (4, value) if isinstance(value, int) else (6, value)


def gguf_file(
    pairs: list[Pair], table: list[tuple[str, tuple[int, ...], int, int]], data: bytes
) -> bytes:
    """The bytes of a GGUF file."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(pairs))
    for key, kind, value in pairs:
        out += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    for name, shape, kind, offset in table:
        out += _text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", side % 2**64) for side in shape[::-1])
        out += struct.pack("<IQ", kind, offset % 2**64)
    return out + bytes(-len(out) % 32) + data


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    if kind == 8:
        return _text(value)
    if kind == 9:
        inner, values = value
        if inner == 8:
            body = b"".join(map(_text, values))
        else:
            body = b"".join(struct.pack(NUMBERS[inner], each) for each in values)
        return struct.pack("<IQ", inner, len(values)) + body
    return struct.pack(NUMBERS[kind], value)


TYPED: tuple[tuple[int, Any], ...] = (
    (4, 0), (4, 1), (4, 3), (4, 2**31), (4, 2**32 - 1), (5, -1), (10, 2**63), (10, 10**9),
    (6, 0.0), (6, -1.5), (6, float("nan")), (6, float("inf")), (12, 1e300), (7, True), (7, False),
    (8, ""), (8, "x"), (8, "a\nb\x1b[31m"), (8, "é" * 100_000), (8, "{% for"),
    (9, (4, [])), (9, (4, [1, 2, 3])), (9, (8, ["a", "b"])), (9, (8, [])), (9, (6, [0.5])),
    (9, (7, [True])), (9, (5, [-1] * 3000)), (9, (8, ["x"] * 3000)), (9, (8, ["", "", ""])),
)  # fmt: skip


def gguf_bytes(draw: random.Random, path: Path) -> tuple[str, bytes]:
    """A damaged GGUF file: a pair of another type, a line of the table, or bytes of the header."""
    pairs, table, data = gguf_parts(path)
    choice = draw.random()
    if choice < 0.15:
        whole = path.read_bytes()
        return some_bytes(draw, whole, len(whole) - len(data) + 64)
    told = []
    for _ in range(draw.choice((1, 1, 2))):
        if draw.random() < 0.7:
            at = draw.randrange(len(pairs))
            key, kind, value = pairs[at]
            if draw.random() < 0.1:
                del pairs[at]
                told.append(f"without {key}")
            elif draw.random() < 0.1:
                pairs[at] = (draw.choice((key + "x", key * 100, "\n\x1b" + key)), kind, value)
                told.append(f"{key} renamed")
            elif kind == 9 and draw.random() < 0.5:
                pairs[at] = (key, kind, (value[0], _other_values(draw, value[0], value[1])))
                told.append(f"other values in {key}")
            else:
                pairs[at] = (key, *draw.choice(TYPED))
                told.append(f"{key} = {pairs[at][1:]!r:.60}")
        else:
            at = draw.randrange(len(table))
            table[at] = _other_line(draw, *table[at])
            told.append(f"line {at} = {table[at]!r:.80}")
    return "; ".join(told), gguf_file(pairs, table, data)


def _other_values(draw: random.Random, kind: int, values: list[Any]) -> list[Any]:
    """An array with some other elements, or of another length."""
    out = list(values)
    if draw.random() < 0.3:
        return out[: draw.randrange(len(out) + 1)]
    for _ in range(draw.choice((1, 5))):
        at = draw.randrange(len(out)) if out else 0
        new = draw.choice(("", "x", "a b c", "<0x41>", "y" * 10_000, "\n", "\ud800"[:0] or "▁"))
        if kind != 8:
            new = draw.choice((0, 1, 1.5)) if kind in (6, 12) else draw.choice((0, 1, 7, 127))
            new = bool(new) if kind == 7 else new
        out[at : at + 1] = [new]
    return out


def _other_line(
    draw: random.Random, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> tuple[str, tuple[int, ...], int, int]:
    """A line of the tensor table with one thing changed."""
    which = draw.randrange(4)
    if which == 0:
        name = draw.choice(
            (name + "x", "", "blk.0.attn_q.weight", "blk.9999999.a", "\x1b[31m", "n" * 200_000)
        )
    elif which == 1:
        side = draw.choice((0, 1, 3, 2**31, 2**40, 2**62, 2**64 - 1))
        shape = draw.choice(
            ((), (side,), (side, *shape[1:]), (*shape, side), (*shape[:-1], side), shape[::-1])
        )
    elif which == 2:
        kind = draw.choice((0, 1, 2, 8, 12, 14, 26, 30, 39, 40, 99, 2**32 - 1))
    else:
        offset = draw.choice((0, offset + 32, offset + 1, 2**63, 2**64 - 32))
    return name, shape, kind, offset


def seeds(seed: int) -> Iterator[int]:
    """A number for each mutation."""
    draw = random.Random(seed)
    while True:
        yield draw.getrandbits(48)
