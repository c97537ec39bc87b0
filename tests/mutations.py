"""JSON files of another kind, made with a seed: for tests of what reads them."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.errors import EdgequantError

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2.5,
    10**12,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    [],
    [1],
    [None],
    {},
    {"a": 1},
)
"""What is put in place of a value."""
TEXTS: dict[str, bytes | None] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "NaN": b"NaN",
    "a text": b'"x"',
    "half a text": b'"\\ud800"',
    "binary": bytes(range(256)),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": '{"a": 1}'.encode("utf-8-sig"),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "a comma too many": b'{"a": 1,}',
    "two values": b"{} {}",
    "a folder": None,
}
"""Whole files that are no JSON object, by what they are; None is a folder of that name."""


def told(call: Callable[[], Any], what: str, name: str = "") -> bool:
    """Whether a call refuses `what`, which must be in one sentence that holds a name."""
    try:
        call()
    except EdgequantError as error:
        assert name in str(error), what
        assert "\n" not in str(error), what
        return True
    return False


def put(path: Path, content: bytes | None) -> None:
    """Write a file, or make a folder of its name."""
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)


def places(value: Any, below: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but the whole; of a long list the first three."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, inner in items:
        yield (*below, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*below, key))


def mutations(value: Any, count: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """`count` times what was changed, and a copy with one place changed or left out."""
    draw = random.Random(seed)
    known = list(places(value))
    for _ in range(count):
        changed = json.loads(json.dumps(value))
        *above, last = where = draw.choice(known)
        inner = changed
        for key in above:
            inner = inner[key]
        if draw.random() < 0.2:
            del inner[last]
            yield f"without {where}", changed
        else:
            inner[last] = draw.choice(VALUES)
            yield f"{where} = {inner[last]!r:.20}", changed
