"""Whether a model and its cache fit in the memory that is left, and where weights lie in it."""

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime.errors import SpaceError

MEMINFO = Path("/proc/meminfo")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALIGNMENT = 64
"""Bytes of a cache line, at which copies start."""
PIECE = 2**26
"""Bytes that are copied at a time: some 10 ms."""


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


def mapping_of(data: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array lies in, whose pages the system can drop and read again."""
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def has_room(count: int) -> bool:
    """Whether `count` bytes can be copied into huge pages and the copied ones kept in the cache."""
    left = available()
    huge = HUGE_PAGES.exists() and "[never]" not in HUGE_PAGES.read_text(encoding="ascii")
    return huge and left is not None and 2 * count <= left


def copy_to_huge_pages(
    arrays: list[np.ndarray], copied: Callable[[int], None], most: int = PIECE
) -> list[np.ndarray]:
    """Copies of uint8 arrays, one behind the other in huge pages where Linux has them.

    `copied` is called with the bytes of each piece of at most `most` once it is copied, and so
    takes memory.

    A mapped file lies in pages of 4 KiB, and looking up where they are costs a quarter of the
    bandwidth (docs/performance.md).
    """
    sizes = [-(-data.nbytes // ALIGNMENT) * ALIGNMENT for data in arrays]
    starts = np.cumsum([0, *sizes])
    room = np.empty(int(starts[-1]), np.uint8)  # numpy asks for huge pages
    copies = []
    for start, data in zip(starts, arrays, strict=False):
        copies.append(room[start : start + data.nbytes].reshape(data.shape))
        source, target = data.reshape(-1), copies[-1].reshape(-1)
        for at in range(0, data.nbytes, most):
            piece = source[at : at + most]
            np.copyto(target[at : at + most], piece)
            copied(piece.nbytes)
    return copies


def drop_pages(arrays: list[np.ndarray]) -> None:
    """Give back the pages of the files that arrays lie in; they are re-read on the next access."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for mapping in {id(found): found for found in map(mapping_of, arrays) if found}.values():
        mapping.madvise(mmap.MADV_DONTNEED)


def require_memory(mapped: int, cache: int = 0, tokens: int = 0) -> None:
    """Refuse weights and a cache that do not fit in memory, before generation starts.

    `mapped` are the bytes of weights that lie in files: each token reads all of them, so a file
    that does not stay in memory is read from the disk for every token. `cache` are the bytes of a
    KV cache for `tokens` tokens.

    Raises SpaceError with the sizes when they are more than what is available.
    """
    left = available()
    if left is None or mapped + cache <= left:
        return
    parts = [f"{size(mapped)} of weights"] * bool(mapped or not tokens)
    parts += [f"{size(cache)} of KV cache"] * bool(tokens)
    fewer = f", fewer tokens than {tokens:,}" if tokens else ""
    raise SpaceError(
        f"{' and '.join(parts)} do not fit in the {size(left)} of memory that are available; "
        f"close other programs, or take a smaller type{fewer} or a smaller model."
    )


def size(count: int) -> str:
    """Bytes for people, in the unit that memory is sold in."""
    return f"{count / 2**30:,.2f} GiB"
