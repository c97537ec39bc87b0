"""The sizes of an artifact and the settings of its computation, against the original's."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from export.stated import Difference, same, shown
from runtime.archs import Arch, Attention

APART = ("family", "tied", "rope", "context", "window", "windowed", "biased")
"""Fields that are compared by what follows from them; a head may be stored apart."""
CLOSE = 3e-6
"""Relative difference that float32 explains: a table of divisors and its inverse are rounded."""


def settings(found: Arch, original: Arch, context: int) -> Iterator[Difference]:
    """Whatever makes an artifact compute otherwise; `context` is the longest that it must hold.

    Both have as many layers.
    """
    for name in (field.name for field in fields(original) if field.name not in APART):
        pair = getattr(found, name, None), getattr(original, name)
        if not same(*pair):
            yield Difference(name, *(shown(plain(value)) for value in pair))
    if found.context != context:
        yield Difference("context", shown(found.context), shown(context))
    biased = [sorted(arch.biased) for arch in (found, original)]
    if biased[0] != biased[1]:
        yield Difference("linears with biases", *map(shown, biased))
    layers = range(original.layers)
    pairs = [(found.layer(at).attention, original.layer(at).attention) for at in layers]
    turned = (rope(f"blk.{at}", *pairs[at]) for at in layers)
    seen = (window(f"blk.{at}", *pairs[at], found.context) for at in layers)
    yield from filter(None, (next(filter(None, told), None) for told in (turned, seen)))


def plain(value: Any) -> Any:
    """A value as it can be shown."""
    return value if isinstance(value, int | float | str | bool | None) else repr(value)


def rope(layer: str, found: Attention, original: Attention) -> Difference | None:
    """The angle of the first pair of channels that turns otherwise.

    Containers say the same scaling in their own words: what counts are frequencies and sizes.
    """
    if found.rope is None or original.rope is None:
        pair = ("none" if op.rope is None else "one" for op in (found, original))
        return None if found.rope is original.rope else Difference(f"rope of {layer}", *pair)
    ours = found.rope.frequencies(found.rope_channels)
    theirs = original.rope.frequencies(original.rope_channels)
    if len(ours) != len(theirs):
        widths = (shown(2 * len(table)) for table in (ours, theirs))
        return Difference(f"channels that rope turns in {layer}", *widths)
    apart = np.flatnonzero(np.abs(ours - theirs) > CLOSE * theirs).tolist()
    if apart:
        pair = (f"{table[apart[0]]:.7g}" for table in (ours, theirs))
        return Difference(f"rope frequency {apart[0]} of {layer}", *pair)
    sizes = found.rope.magnitude, original.rope.magnitude
    if math.isclose(*sizes, rel_tol=CLOSE):
        return None
    return Difference(f"rope magnitude of {layer}", *(f"{size:.7g}" for size in sizes))


def window(layer: str, found: Attention, original: Attention, reach: int) -> Difference | None:
    """The keys that a query sees, as far as a text that fits the artifact reaches."""
    seen = [min(op.window or reach, reach) for op in (found, original)]
    return None if seen[0] == seen[1] else Difference(f"window of {layer}", *map(shown, seen))
