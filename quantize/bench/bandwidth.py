"""How fast this machine reads memory: what bounds the speed of generation.

A token needs every weight once, and does little with it, so a model cannot generate faster than its
bytes come out of memory. Numpy's sum of 64-bit integers reads as fast as a loop of AVX-512 loads
written for it, in one stream or in several: memory is what it waits for.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

LEAST, MOST = 256 << 20, 1 << 30
"""Bytes of the array at least, so that caches play little part, and at most."""
SECONDS = 0.3
"""The array is read over and over for so long."""


class Memory:
    """An array as large as a model's weights: what is cached of them is cached of it, too."""

    def __init__(self, weights: int, threads: int) -> None:
        """`weights` is in bytes; what is past LEAST and MOST is cut."""
        count = min(max(weights, LEAST), MOST) // 8
        self.parts = np.array_split(np.ones(count, np.int64), threads)
        self.pool = ThreadPoolExecutor(threads)

    def read(self) -> float:
        """Bytes a second, each thread reading its part of the array for SECONDS."""
        start, passes = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            list(self.pool.map(np.sum, self.parts))  # numpy lets go of the GIL
            passes += 1
        return passes * sum(part.nbytes for part in self.parts) / (time.perf_counter() - start)
