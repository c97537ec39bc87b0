"""What a step of a run takes. Each step states it beside its code; a forecast adds them up."""

from collections.abc import Iterable
from dataclasses import dataclass

FLOAT = 4
"""Bytes of a float32, and of an int32."""
BASE_BYTES = (300 + 150) << 20
"""Resident bytes of Python with torch, and of what the libraries of products and the heap keep for
themselves once a layer went through: arrays of less than 32 MiB are not given back at once."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step takes on top of the program and of what earlier steps left on the disk."""

    memory: int = 0
    """Bytes resident at most. Pages of files that are mapped count."""
    what: str = ""
    """What takes them."""
    disk: int = 0
    """Bytes on disk at most."""
    kept: int = 0
    """Those of them that stay until the end of the run."""
    flops: float = 0.0
    """Operations of its products."""
    seconds: float = 0.0
    """Of work that waits for itself: one column after the other."""


def in_turn(costs: Iterable[Cost]) -> Cost:
    """Of steps one after the other: memory is free again after each, `kept` files are not."""
    memory = disk = kept = 0
    flops = seconds = 0.0
    what = ""
    for cost in costs:
        if cost.memory > memory:
            memory, what = cost.memory, cost.what
        disk = max(disk, kept + cost.disk)
        kept += cost.kept
        flops += cost.flops
        seconds += cost.seconds
    return Cost(memory=memory, what=what, disk=disk, kept=kept, flops=flops, seconds=seconds)


def in_memory(size: int, max_ram: float) -> int:
    """Bytes of an array that stay in memory; see `Work.allocate`."""
    return size if size <= max_ram * 2**30 else 0


def on_disk(size: int, max_ram: float) -> int:
    """Bytes of an array that go to disk."""
    return size - in_memory(size, max_ram)
