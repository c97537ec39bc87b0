"""Whether a model and its cache fit in the memory that is left."""

import mmap
from pathlib import Path

import numpy as np

from runtime.errors import EdgequantError

MEMINFO = Path("/proc/meminfo")


def available(meminfo: Path = MEMINFO) -> int | None:
    """Bytes that programs can take without swapping; None where the system does not say.

    Linux counts cached pages of files as available, those of an opened model among them.
    """
    if not meminfo.exists():
        return None
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def is_mapped(data: np.ndarray) -> bool:
    """Whether an array lies in a mapped file, whose pages the system can drop and read again."""
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


def need(mapped: int, cache: int = 0, tokens: int = 0) -> None:
    """Say that generation would crawl or fail, before it starts.

    `mapped` are the bytes of weights that lie in files: each token reads all of them, so a file
    that does not stay in memory is read from the disk for every token. `cache` are the bytes of a
    KV cache for `tokens` tokens.

    Raises EdgequantError with the sizes when they are more than what is available.
    """
    left = available()
    if left is None or mapped + cache <= left:
        return
    parts = f"{size(mapped)} of weights" + (f" and {size(cache)} of KV cache" if tokens else "")
    fewer = f", fewer tokens than {tokens:,}" if tokens else ""
    raise EdgequantError(
        f"{parts} do not fit in the {size(left)} of memory that are available; "
        f"close other programs, or take a smaller type{fewer} or a smaller model."
    )


def size(count: int) -> str:
    """Bytes for people, in the unit that memory is sold in."""
    return f"{count / 2**30:,.2f} GiB"
