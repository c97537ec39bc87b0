"""Values that an artifact holds smaller than the checkpoint does: float16 ends at 65,504."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from runtime.memory import drop_pages
from runtime.tensor import Tensor

LARGEST = 65504.0
BITS: dict[str, tuple[Any, int]] = {
    "BF16": (np.uint16, 0x4780),
    "F32": (np.uint32, 0x477FE001),
}
"""Type -> a number of its width, and the bits of the least value above LARGEST."""
BY_RULE = "use BF16 or F32 for it (--rule)"
KEPT = 0.9
"""A value that keeps this part is rounded, not clipped: rewrites move scales a little."""
ROWS = 1024
"""Rows that are looked at at a time."""


def watch(
    written: Iterable[Tensor], originals: Mapping[str, Tensor], notes: list[str]
) -> Iterator[Tensor]:
    """The tensors as they come; a note for each that clips values of the original."""
    for tensor in written:
        note = clipped(originals[tensor.name], tensor)
        notes += [note] if note else []
        yield tensor


def clipped(original: Tensor, written: Tensor, way_out: str = BY_RULE) -> str | None:
    """A sentence on the values that were clipped, None when there are none."""
    if original.qtype.name not in BITS:
        return None
    number, least = BITS[original.qtype.name]
    magnitude = np.iinfo(number).max >> 1  # all but the sign
    count, largest = 0, 0.0
    for start in range(0, len(original.data), ROWS):
        bits = original.data[start : start + ROWS].view(number) & magnitude
        most = bits.max(initial=0)
        drop_pages([original.data])
        if most < least:
            continue
        before = np.abs(original.decode(start, start + ROWS))
        after = np.abs(written.decode(start, start + ROWS))
        large = too_large(before, after)
        count += int(large.sum())
        largest = max(largest, float(before[large].max(initial=0)))
    if not count:
        return None
    return (
        f"{written.name}: {written.qtype.name} cannot hold {count} values, the largest "
        f"{largest:g}; they were clipped: {way_out}"
    )


def too_large(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which magnitudes were beyond float16 and are smaller now."""
    return np.asarray((before > LARGEST) & (after < KEPT * before))
