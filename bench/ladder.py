"""The kernels' products on every instruction set of this processor, one thread, from the cache.

    python bench/ladder.py [--repeat 5]

One token is told in packed bytes a second, many in products of a weight and an activation a
second. Instruction sets and types take turns, and a figure is the best of `repeat` times `CALLS`
calls: what the kernel can do, not what other machines' work left of it. Prints a table and writes
results/ladder.json.
"""

import argparse
import importlib
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common
from runtime.backends.native import NativeOps
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor

TYPES = ("Q4_K", "Q6_K", "Q4_0", "Q8_0")
FEW, MANY = "one token, GB/s", "512 tokens, 10^9 products/s"
SHAPES = {FEW: (1, 512, 1536), MANY: (512, 1536, 1536)}
"""Tokens, rows and columns."""
CALLS = {FEW: 200, MANY: 3}
"""Of a product in each round."""


def weight(kind: str, rows: int, cols: int) -> Tensor:
    """Random weights, packed."""
    values = np.random.default_rng(0).standard_normal((rows, cols)).astype(np.float32)
    qtype = QUANT_TYPES[kind]
    return Tensor(kind, (rows, cols), qtype, qtype.pack(*qtype.quantize(values)))


def rate(work: str, packed: Tensor, x: np.ndarray) -> float:
    """Billions a second of what `work` counts, in the fastest of its calls."""
    ops, took = NativeOps(), []
    loaded = ops.load(packed)
    for _ in range(CALLS[work]):
        start = time.perf_counter()
        ops.matmul(x, loaded, None)
        took.append(time.perf_counter() - start)
    count = packed.nbytes if work == FEW else math.prod(SHAPES[work])
    return count / min(took) / 1e9


def measure(native: Any, repeat: int) -> common.Rows:
    """A row for each kind of work and instruction set, with a column for each type."""
    sets = native.instruction_sets()
    rows = {(work, name): {"work": work, "instructions": name} for work in SHAPES for name in sets}
    for work, (tokens, *shape) in SHAPES.items():
        weights = {kind: weight(kind, *shape) for kind in TYPES}
        x = np.random.default_rng(1).standard_normal((tokens, shape[1])).astype(np.float32)
        for _, name in itertools.product(range(repeat), sets):
            native.set_instruction_set(name)
            for kind, packed in weights.items():
                row = rows[work, name]
                row[kind] = max(row.get(kind, 0.0), rate(work, packed, x))
    return list(rows.values())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    flags = parser.parse_args()
    native = importlib.import_module("runtime._native")
    native.set_threads(1)
    rows = measure(native, flags.repeat)
    common.write("ladder", rows, threads=1)
    print(common.table(rows))


if __name__ == "__main__":
    main()
