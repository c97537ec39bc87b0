"""Speed against llama.cpp and ik_llama.cpp at full strength, on files with the shapes of Qwen2.5.

    make rivals                      # their environments, once: llama.cpp is compiled, for minutes
    python bench/rivals.py [--only "prompt 512 1.5B Q4_K_M" ...] [--repeat 5] [--threads 2]

llama.cpp is llama-cpp-python's, compiled for the processor at hand, and that of node-llama-cpp,
which is compiled for every processor and takes the best form at run time; where that is one with
AMX, also without it. ik_llama.cpp is the wheel of ik-llama-cpp-python. Each runs in a process of
its own, once as files have the weights and once with them rearranged as they are loaded. llama.cpp
from xllamacpp, whose wheel is for AVX2, is a column beside them. All take turns on the same tokens:
a ratio is the median, over rounds, of our speed by that of the rival's form whose median is higher.
Prints a table and writes results/rivals.json.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, shapes
from quantize.bench.bandwidth import Memory
from quantize.bench.client import Worker
from quantize.bench.speed import WARM_UP, median_ratio, weight_bytes
from quantize.cli.bar import Bar
from quantize.progress import Progress
from runtime.compiled import kernels
from runtime.gguf_file import open_gguf

WORKER = Path(__file__).with_name("rival_worker.py")
HOME = common.ROOT / ".venv-rivals"
NAMES = {
    "llama_cpp": "llama.cpp",
    "node_llama_cpp": "llama.cpp prebuilt",
    "ik_llama_cpp": "ik_llama.cpp",
}
"""Rival -> what it is called; its environment is made by the Makefile's `rivals`."""
USUAL = ["llama_cpp", "ik_llama_cpp"]
OURS, WHEEL = "native", "llamacpp"
"""Backends of our own worker: ours, and llama.cpp from xllamacpp."""
FORMS = ("", " repacked")
NO_AMX = " without AMX"


@dataclass(frozen=True)
class Work:
    """One line of the table."""

    kind: str
    """A job: "prompt" of `tokens`, or "generate" after `tokens`."""
    tokens: int
    size: str
    preset: str

    @property
    def name(self) -> str:
        """As --only has it."""
        return f"{self.kind} {self.tokens} {self.size} {self.preset}"


WORKS = {
    work.name: work
    for work in (
        Work("prompt", 512, "1.5B", "Q4_K_M"),
        Work("prompt", 512, "1.5B", "Q4_0"),
        Work("prompt", 512, "1.5B", "Q6_K"),
        Work("prompt", 4096, "1.5B", "Q4_K_M"),
        Work("generate", 0, "1.5B", "Q4_K_M"),
        Work("generate", 0, "1.5B", "Q4_0"),
        Work("generate", 0, "0.5B", "Q8_0"),
        Work("generate", 16384, "1.5B", "Q4_K_M"),
    )
}
GENERATED = 32
"""Tokens of a round of generation."""


def start(file: Path, engine: str, threads: int) -> Worker:
    """The engine of that name in a process of its own."""
    package = engine.partition(" ")[0]
    if package not in NAMES:
        return Worker(file, engine, threads)
    return Worker(file, engine, threads, (str(python_of(package)), str(WORKER)))


def python_of(package: str) -> Path:
    """The Python of a rival's environment."""
    return HOME / package / "bin" / "python"


def require(packages: Iterable[str]) -> None:
    """Leave with a sentence where a rival is not installed."""
    for package in packages:
        if not python_of(package).exists():
            sys.exit(
                f"{python_of(package)} is missing; `make rivals` installs {package}, and of "
                "node_llama_cpp needs npm for it; --rivals chooses others."
            )


def measure(
    work: Work, engines: list[str], flags: argparse.Namespace, progress: Progress
) -> tuple[dict[str, list[float]], list[float], dict[str, list[str]]]:
    """Tokens a second of each engine and round, the share of the bandwidth that ours reached in
    each, and the instruction sets that each names."""
    file = shapes.file(work.size, work.preset)
    weights = weight_bytes(open_gguf(file))
    speeds: dict[str, list[float]] = {engine: [] for engine in engines}
    shares: list[float] = []
    with ExitStack() as stack:
        workers = {
            engine: stack.enter_context(closing(start(file, engine, flags.threads)))
            for engine in engines
        }
        memory = Memory(weights, flags.threads) if work.kind == "generate" else None
        count = GENERATED if memory else work.tokens
        for worker in workers.values():
            worker.ask("prompt", WARM_UP)
            if memory:
                worker.ask("fill", work.tokens, work.tokens + WARM_UP + flags.repeat * GENERATED)
                worker.ask("generate", WARM_UP)
        for number in range(flags.repeat):
            limit = memory.read() if memory else None
            for engine, worker in workers.items():
                speeds[engine].append(count / worker.ask(work.kind, count))
            if limit:
                shares.append(speeds[OURS][-1] * weights / limit)
            progress(work.name, number + 1, flags.repeat, f"{speeds[OURS][-1]:.1f} tokens/s")
        sets = {engine: worker.ask("instruction_sets") for engine, worker in workers.items()}
    return speeds, shares, sets


def row(work: Work, speeds: dict[str, list[float]], shares: list[float]) -> dict[str, Any]:
    """A line: medians, and ratios to the faster form of each rival."""
    told: dict[str, Any] = {"work": work.name, "ours": statistics.median(speeds[OURS])}
    for package, name in NAMES.items():
        forms = [engine for engine in speeds if engine.partition(" ")[0] == package]
        for engine in forms:
            told[engine.replace(package, name)] = statistics.median(speeds[engine])
        if forms:
            faster = max(forms, key=lambda engine: statistics.median(speeds[engine]))
            told[f"times {name}"] = median_ratio(speeds[OURS], speeds[faster])
    told["xllamacpp"] = statistics.median(speeds[WHEEL]) if WHEEL in speeds else "-"
    told["of_bandwidth"] = statistics.median(shares) if shares else "-"
    return told


def forms_of(rival: str) -> list[str]:
    """The engines of a rival: what can be measured without AMX is, where the processor has it."""
    amx = rival == "node_llama_cpp" and kernels and "amx" in kernels.instruction_sets()
    levels = ("", NO_AMX) if amx else ("",)
    return [rival + form + level for level in levels for form in FORMS]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), metavar="WORK")
    parser.add_argument("--rivals", nargs="+", choices=NAMES, default=USUAL)
    parser.add_argument("--threads", type=common.count, default=2)
    parser.add_argument(
        "--repeat", type=common.count, default=5, help="rounds; figures are medians"
    )
    parser.add_argument("--keep", default="rivals", help="name of the file in results/")
    flags = parser.parse_args()
    require(flags.rivals)
    engines = [OURS, *(form for rival in flags.rivals for form in forms_of(rival)), WHEEL]
    rows: common.Rows = []
    details: dict[str, Any] = {}
    with Bar(Console(stderr=True)) as bar:
        for name in flags.only:
            speeds, shares, sets = measure(WORKS[name], engines, flags, bar.update)
            rows.append(row(WORKS[name], speeds, shares))
            details[name] = {"rounds": speeds, "shares": shares, "instruction_sets": sets}
    common.write(flags.keep, rows, threads=flags.threads, details=details)
    print(common.table(rows))


if __name__ == "__main__":
    main()
