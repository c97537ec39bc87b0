"""Where the time of one token goes, in the native engine, on the shapes of Qwen2.5.

    python bench/token_profile.py [--threads 2] [--repeat 5]

A whole token and then its products, one after the other in the order that a token has them, take
turns; each product is timed by itself, and comes from memory because all others came in between.
What a token takes beyond their sum is the rest: attention, norms, rotary positions, and the way
from one to the next. Prints a table and writes results/token_profile.json.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, shapes
from quantize.bench.bandwidth import Memory
from quantize.bench.speed import weight_bytes
from runtime.backends.native import NativeOps
from runtime.engine import Engine, open_engine
from runtime.gguf_file import open_gguf
from runtime.model import Model

FILES = (("0.5B", "Q8_0"), ("1.5B", "Q4_K_M"))
TOKENS = 4
"""Tokens for each of `repeat`: the figures are medians over all of them."""
WARM_UP = 2
"""Tokens before anything is timed."""
WHOLE, LIMIT = "whole", "limit"
"""Keys beside the kinds of products: seconds of a token, and bytes a second of memory."""


Times = dict[str, float]
"""Part of a token -> seconds."""


def products(model: Model) -> list[str]:
    """The weights of a token's products, in its order."""
    inside = [name for name in model.tensors if name.startswith("blk.")]
    return [n for n in inside if len(model.tensors[n].shape) == 2] + [model.arch.head]


def kind(name: str) -> str:
    """ "blk.3.attn_q.weight" -> "attn_q"; whatever makes the logits is the head."""
    return name.split(".")[2] if name.startswith("blk.") else "head"


def time_products(weights: dict[str, Any], inputs: dict[int, np.ndarray]) -> Times:
    """Seconds of each kind of product of one token; `inputs` has one for each width."""
    ops, took = NativeOps(), Counter[str]()
    for name, weight in weights.items():
        start = time.perf_counter()
        ops.matmul(inputs[weight.cols], weight, None)
        took[kind(name)] += time.perf_counter() - start
    return dict(took)


def time_token(engine: Engine, cache: Any) -> float:
    """Seconds of one whole token."""
    start = time.perf_counter()
    engine.logits(np.zeros((1, 1), np.int64), cache, last=True)
    return time.perf_counter() - start


def profile(size: str, preset: str, threads: int, repeat: int) -> common.Rows:
    """The parts of one token, then the rest and the whole."""
    model = open_gguf(shapes.file(size, preset))
    engine = open_engine(model, "native", threads=threads)
    cache = engine.new_cache(1, WARM_UP + repeat * TOKENS)
    weights = {name: NativeOps().load(model.tensors[name]) for name in products(model)}
    random = np.random.default_rng(0)
    widths = {weight.cols for weight in weights.values()}
    inputs = {width: random.standard_normal((1, width), np.float32) for width in widths}
    memory = Memory(weight_bytes(model), threads)
    for _ in range(WARM_UP):
        time_token(engine, cache)
    parts: list[Times] = []
    for _ in range(repeat * TOKENS):
        whole = {WHOLE: time_token(engine, cache)}
        parts.append(whole | time_products(weights, inputs) | {LIMIT: memory.read()})
    sizes = Counter[str]()
    for name in weights:
        sizes[kind(name)] += model.tensors[name].nbytes
    return table(f"{size} {preset}", parts, sizes)


def table(model: str, parts: list[Times], sizes: Counter[str]) -> common.Rows:
    """Medians over the tokens, one line a part."""
    medians = {name: statistics.median(times[name] for times in parts) for name in parts[0]}
    whole, limit = medians.pop(WHOLE), medians.pop(LIMIT)
    rows = [part_row(model, name, t, whole, sizes[name], limit) for name, t in medians.items()]
    rest = whole - sum(medians.values())
    rows.append(part_row(model, "everything else", rest, whole, None, limit))
    return [*rows, part_row(model, "a token", whole, whole, sizes.total(), limit)]


def part_row(
    model: str, part: str, took: float, whole: float, size: int | None, limit: float
) -> dict[str, Any]:
    """A line; the bandwidth of the last column is that of a reading loop on as many threads."""
    return {
        "model": model,
        "part": part,
        "bytes": "-" if size is None else size,
        "ms": 1000 * took,
        "share": took / whole,
        "of_bandwidth": "-" if size is None else size / took / limit,
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; figures are medians")
    flags = parser.parse_args()
    rows = [row for file in FILES for row in profile(*file, flags.threads, flags.repeat)]
    print(common.table(rows))
    common.write("token_profile", rows, threads=flags.threads, repeat=flags.repeat)


if __name__ == "__main__":
    main()
