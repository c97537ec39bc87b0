"""Speed against llama.cpp, on files with the shapes of Qwen2.5 and random weights.

    python bench/speed.py [--only 1.5B-Q4_K_M 1.5B-Q4_0 1.5B-Q6_K 0.5B-Q8_0 context experts check]
                          [--threads 2] [--repeat 5]

Each run measures one file with `quantize.bench`, both engines taking turns on the same tokens, and
gives the lines that are asked of it. `check` scores 16,384 tokens with a 0.5B file: both engines
give the logits of every token, and the same function turns them into a perplexity. Files are made
once, in build/speed. Needs the extra `interop`. Prints a table and writes results/speed.json,
and results/speed_experts.json of models with experts.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, shapes
from quantize.bench.speed import BenchRequest, BenchResult, measure
from quantize.cli.bar import Bar
from quantize.progress import Progress
from runtime.archs import Arch
from runtime.engine import Engine, open_engine
from runtime.gguf_file import open_gguf, read_arch

RIVAL = "llama.cpp"
WINDOWS, LENGTH = 32, 512
"""Windows that `check` scores, and their tokens."""
CACHE_CELL = 2
"""Bytes of a float16, in which llama.cpp keeps keys and values: our memory is held to it."""


@dataclass(frozen=True)
class Run:
    """One file, and what is reported of it."""

    size: str
    preset: str
    lines: tuple[str, ...]
    """Names of LINES."""
    flags: tuple[tuple[str, int], ...] = ()
    """Fields of BenchRequest that differ from their defaults."""


RUNS = {
    "1.5B-Q4_K_M": Run("1.5B", "Q4_K_M", ("generation", "prompt", "load", "memory")),
    "1.5B-Q4_0": Run("1.5B", "Q4_0", ("generation", "prompt")),
    "1.5B-Q6_K": Run("1.5B", "Q6_K", ("prompt",), (("generate", 1),)),
    "0.5B-Q8_0": Run("0.5B", "Q8_0", ("generation",), (("prompt", 1),)),
    "context": Run("1.5B", "Q4_K_M", ("after 4,096",), (("prompt", 1), ("context", 4096))),
    "experts": Run("A2.7B-2", "Q4_K_M", ("experts",), (("prompt", 1),)),
    "check": Run("0.5B", "Q8_0", ("check",)),
}
"""Word of --only -> run."""


def row(name: str, run: Run, **figures: Any) -> dict[str, Any]:
    """A line of the table; what does not apply is a dash."""
    told = {"work": name, "model": f"{run.size} {run.preset}"}
    columns = ("unit", "ours", "llama.cpp", "ratio", "of_bandwidth", "goal")
    return told | dict.fromkeys(columns, "-") | figures


def generation(
    run: Run, speed: BenchResult, goal: str = "1.15 x, 85% of bandwidth"
) -> dict[str, Any]:
    """Tokens a second, one after the other, and the share of the bandwidth that weights take."""
    ours, theirs = speed.engines
    context = f" after {speed.request.context:,}" if speed.request.context else ""
    return row(
        f"generation{context}", run, unit="tokens/s", **pair(ours.generate, theirs.generate),
        ratio=ratio(speed, "generate"), of_bandwidth=statistics.median(ours.share), goal=goal,
    )  # fmt: skip


def experts(run: Run, speed: BenchResult) -> dict[str, Any]:
    """The same with a mixture of experts, of which a token reads some."""
    return generation(run, speed, "1.3 x")


def after_context(run: Run, speed: BenchResult) -> dict[str, Any]:
    """The same with a long cache; its keys and values are read too, which the share leaves out."""
    return generation(run, speed, "1.15 x")


def prompt(run: Run, speed: BenchResult) -> dict[str, Any]:
    """Tokens a second of a prompt."""
    ours, theirs = speed.engines
    return row(
        f"prompt of {speed.request.prompt}", run, unit="tokens/s",
        **pair(ours.prompt, theirs.prompt), ratio=ratio(speed, "prompt"), goal="1.5 x",
    )  # fmt: skip


def load(run: Run, speed: BenchResult) -> dict[str, Any]:
    """Seconds from opening the file, which is in the page cache, to the logits of a token."""
    ours, theirs = speed.engines
    return row(
        "load to first token", run, unit="s", **pair(ours.load, theirs.load),
        ratio=ratio(speed, "load"), goal="1 x",
    )  # fmt: skip


def memory(run: Run, speed: BenchResult) -> dict[str, Any]:
    """What is resident while generating, beyond the file and a cache of float16."""
    arch = shapes.arch_of(run.size)
    known = speed.file_bytes + cache_bytes(arch, speed.request.capacity)
    over = [(engine.memory["resident"] - known) / 1e6 for engine in speed.engines]
    return row(
        "memory beyond file and cache",
        run,
        unit="MB",
        **pair(over[:1], over[1:]),
        goal="150 at most",
    )


LINES: dict[str, Callable[[Run, BenchResult], dict[str, Any]]] = {
    "generation": generation,
    "experts": experts,
    "after 4,096": after_context,
    "prompt": prompt,
    "load": load,
    "memory": memory,
}
"""Name of a line -> what makes it of a measured speed."""


def pair(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Both medians."""
    return {"ours": statistics.median(ours), "llama.cpp": statistics.median(theirs)}


def ratio(speed: BenchResult, word: str) -> float:
    """How many times as fast ours is."""
    assert speed.ratios is not None
    return speed.ratios[word]


def cache_bytes(arch: Arch, tokens: int) -> int:
    """Keys and values of so many tokens."""
    return 2 * CACHE_CELL * arch.layers * arch.kv_heads * arch.head_dim * tokens


def check(run: Run, file: Path, threads: int, progress: Progress) -> dict[str, Any]:
    """Seconds to score every token of WINDOWS windows, the engines taking turns on each window."""
    arch = read_arch(file)
    ids = np.random.default_rng(0).integers(arch.vocab, size=(WINDOWS, LENGTH))
    engines = [
        open_engine(open_gguf(file), "native", threads=threads),
        open_engine(file, "llamacpp", threads=threads),
    ]
    seconds: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for number, window in enumerate(ids):
        for engine, times, found in zip(engines, seconds, losses, strict=True):
            start = time.perf_counter()
            found.append(loss(engine, window))
            times.append(time.perf_counter() - start)
        progress("check", number + 1, WINDOWS, "")
    ours, theirs = (sum(times) for times in seconds)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    perplexities = [math.exp(statistics.mean(found)) for found in losses]
    print(f"perplexity {perplexities[0]:,.1f} and {perplexities[1]:,.1f}, which should agree")
    return row(
        f"check of {ids.size:,} tokens", run, unit="s", **pair([ours], [theirs]),
        ratio=statistics.median(ratios), goal="1.5 x",
    )  # fmt: skip


def loss(engine: Engine, ids: np.ndarray) -> float:
    """Mean -log probability of each next token of a window (T,)."""
    logits = engine.logits(ids[None])[0, :-1]  # (T - 1, V)
    chosen = logits[np.arange(len(logits)), ids[1:]]
    peak = logits.max(axis=1, keepdims=True)
    logits -= peak
    total = np.exp(logits, out=logits).sum(axis=1)
    return float(np.mean(np.log(total) + peak[:, 0] - chosen))


def measured(run: Run, threads: int, repeat: int, progress: Progress) -> BenchResult:
    """One run of `quantize bench`."""
    file = shapes.file(run.size, run.preset)
    return measure(BenchRequest(file, threads, RIVAL, repeat=repeat, **dict(run.flags)), progress)


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; figures are medians")
    flags = parser.parse_args()
    rows: common.Rows = []
    details: dict[str, Any] = {}
    with Bar(Console(stderr=True)) as bar:
        for name in flags.only:
            run = RUNS[name]
            if name == "check":
                file = shapes.file(run.size, run.preset)
                rows.append(check(run, file, flags.threads, bar.update))
                continue
            speed = measured(run, flags.threads, flags.repeat, bar.update)
            rows += [LINES[line](run, speed) for line in run.lines]
            details[name] = speed.to_json()
    print(common.table(rows))
    mixtures = {name for name in details if "experts" in RUNS[name].lines}
    sizes = {f"{RUNS[name].size} {RUNS[name].preset}" for name in mixtures}
    for table, experts in (("speed", False), ("speed_experts", True)):
        of = [row for row in rows if (row["model"] in sizes) == experts]
        runs = {name: run for name, run in details.items() if (name in mixtures) == experts}
        if of:
            common.write(table, of, threads=flags.threads, repeat=flags.repeat, runs=runs)


if __name__ == "__main__":
    main()
