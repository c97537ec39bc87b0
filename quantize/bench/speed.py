"""Measure a file: prompt, generation, loading, memory and the share of the memory bandwidth.

Engines take turns within each round (ours, theirs, ours, theirs...), on the same tokens and as many
threads, because a machine's speed changes from second to second: the ratio within a round can be
trusted where two speeds taken at different times cannot.
"""

import os
import statistics
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantize.bench.bandwidth import Memory
from quantize.bench.client import Worker
from quantize.loading import files_of
from quantize.progress import Progress
from quantize.report import frontier_chart
from runtime.checkpoint import model_name
from runtime.containers import recognise
from runtime.errors import InputError, UnsupportedError
from runtime.model import Model

RIVALS = {"llama.cpp": "llamacpp"}
"""What --against knows -> its backend."""
WARM_UP = 8
"""Tokens that are read and generated before anything is timed."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure; checked by `check`."""

    file: Path
    threads: int
    against: str | None = None
    prompt: int = 512
    """Tokens of the prompt."""
    generate: int = 64
    """Tokens generated in a round; each round goes on where the one before it ended."""
    context: int = 0
    """Tokens in the cache before the first round of generation."""
    repeat: int = 5
    """Rounds; results are medians over them."""
    chart: Path | None = None

    @property
    def capacity(self) -> int:
        """Tokens that the cache of the generation must hold."""
        return self.context + WARM_UP + self.repeat * self.generate

    @property
    def backends(self) -> list[str]:
        """Ours first."""
        ours = recognise(self.file).engine
        return [ours] + ([RIVALS[self.against]] if self.against else [])


@dataclass
class Samples:
    """What one engine did, a number a round."""

    backend: str
    prompt: list[float] = field(default_factory=list)
    """Tokens a second."""
    generate: list[float] = field(default_factory=list)
    """Tokens a second."""
    load: list[float] = field(default_factory=list)
    """Seconds from opening the file to the logits of one token; the file is in the page cache."""
    share: list[float] = field(default_factory=list)
    """Bytes of weights that generation read, over what a reading loop read in the same round."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes after generation; see `worker.MEMORY`."""
    instruction_sets: list[str] = field(default_factory=list)
    """See `worker.Bench.instruction_sets`."""

    @property
    def label(self) -> str:
        """The engine, and the instruction set of our own."""
        name = {backend: rival for rival, backend in RIVALS.items()}.get(self.backend, self.backend)
        return f"{name} ({self.instruction_sets[-1]})" if self.instruction_sets else name

    def to_json(self) -> dict[str, Any]:
        """Medians, and every round behind them."""
        return {
            "engine": self.backend,
            "instruction_set": self.instruction_sets[-1] if self.instruction_sets else None,
            "prompt_tokens_per_second": numbers(self.prompt),
            "generate_tokens_per_second": numbers(self.generate),
            "bandwidth_share": numbers(self.share),
            "load_seconds": numbers(self.load),
            "memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class BenchResult:
    """The result."""

    request: BenchRequest
    file_bytes: int
    weight_bytes: int
    """Weights that one token reads."""
    bandwidth: list[float]
    """Bytes a second of each round."""
    engines: list[Samples]
    """Ours, then the rival."""

    @property
    def ratios(self) -> dict[str, float] | None:
        """How many times as fast ours is: medians of the ratios within rounds. None alone."""
        if len(self.engines) < 2:
            return None
        ours, theirs = self.engines
        return {
            "prompt": median_ratio(ours.prompt, theirs.prompt),
            "generate": median_ratio(ours.generate, theirs.generate),
            "load": median_ratio(theirs.load, ours.load),
        }

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader of the figures must know."""
        sets = self.engines[0].instruction_sets
        if sets and sets[-1] == sets[0]:
            return [
                f"The kernels ran on the portable path ({sets[0]}), which is slow: this build has "
                "no instruction set that suits this processor better."
            ]
        return []

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `docs/formats.md` has the keys."""
        asked = self.request
        return {
            "file": model_name(asked.file),
            "file_bytes": self.file_bytes,
            "weight_bytes_per_token": self.weight_bytes,
            "threads": asked.threads,
            "prompt": asked.prompt,
            "generate": asked.generate,
            "context": asked.context,
            "repeat": asked.repeat,
            "bandwidth_bytes_per_second": numbers(self.bandwidth),
            "engines": [engine.to_json() for engine in self.engines],
            "ratios": self.ratios,
            "notes": self.notes,
        }


def numbers(rounds: list[float]) -> dict[str, Any]:
    """A median and the rounds that it is of."""
    return {"median": statistics.median(rounds), "rounds": rounds}


def median_ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """The median of the ratios of two rows of rounds."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def weight_bytes(model: Model) -> int:
    """Bytes of weights that one token reads: all but the rows of an embedding that it looks up.

    A tied embedding counts: as the head it is read whole.
    """
    looked_up = set() if model.arch.tied else {"token_embd.weight"}
    return sum(model.tensors[name].nbytes for name in model.tensors if name not in looked_up)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check(asked: BenchRequest) -> Model:
    """The model of the file, opened but not loaded.

    Raises EdgequantError for what cannot be measured, before any time is spent.
    """
    for name, least in (("threads", 1), ("prompt", 1), ("generate", 1), ("context", 0)):
        if getattr(asked, name) < least:
            raise InputError(f"--{name} is {getattr(asked, name)}; give {least} or more.")
    if asked.repeat < 1:
        raise InputError(f"--repeat is {asked.repeat}; give 1 or more.")
    if asked.against is not None and asked.against not in RIVALS:
        raise InputError(
            f"cannot compare with {asked.against!r}; --against knows {', '.join(RIVALS)}."
        )
    if asked.against and recognise(asked.file).name != "gguf":
        raise InputError(
            f"{asked.against} runs .gguf files, and {asked.file} is none; leave out --against."
        )
    if asked.chart is not None:
        frontier_chart.check_path(asked.chart)
    model = recognise(asked.file).open(asked.file)
    if model.arch.score_head:
        raise UnsupportedError(
            "this model scores texts and generates none, and speed is that of generation; "
            "`quantize score` runs it."
        )
    needed = max(asked.prompt, asked.capacity)
    if needed > model.arch.context:
        raise InputError(
            f"{needed} tokens are needed at once, and the model's context is "
            f"{model.arch.context}; lower --prompt, --context, --generate or --repeat."
        )
    return model


def measure(asked: BenchRequest, progress: Progress) -> BenchResult:
    """Everything about a file. Raises as `check` does, and with the sentence of an engine."""
    model = check(asked)
    weights = weight_bytes(model)
    engines = [Samples(backend) for backend in asked.backends]
    size = sum(file.stat().st_size for file in files_of(asked.file))
    bandwidth: list[float] = []
    with ExitStack() as stack:
        # these first loads bring the file into the page cache, and are not counted
        workers = [
            stack.enter_context(closing(Worker(asked.file, engine.backend, asked.threads)))
            for engine in engines
        ]
        time_prompts(asked, engines, workers, progress)
        time_generation(
            asked, engines, workers, Memory(weights, asked.threads), bandwidth, progress
        )
        for engine, worker in zip(engines, workers, strict=True):
            engine.share = [
                speed * weights / limit
                for speed, limit in zip(engine.generate, bandwidth, strict=True)
            ]
            engine.memory = worker.ask("memory")
            engine.instruction_sets = worker.ask("instruction_sets")
    time_loads(asked, engines, progress)
    return BenchResult(asked, size, weights, bandwidth, engines)


def time_prompts(
    asked: BenchRequest, engines: list[Samples], workers: list[Worker], progress: Progress
) -> None:
    """Fill `prompt` of each engine, taking turns."""
    for worker in workers:
        worker.ask("prompt", min(WARM_UP, asked.prompt))
    for number in range(asked.repeat):
        for engine, worker in zip(engines, workers, strict=True):
            engine.prompt.append(asked.prompt / worker.ask("prompt", asked.prompt))
        progress("prompt", number + 1, asked.repeat, speeds([e.prompt for e in engines]))


def time_generation(
    asked: BenchRequest,
    engines: list[Samples],
    workers: list[Worker],
    memory: Memory,
    bandwidth: list[float],
    progress: Progress,
) -> None:
    """Fill `generate` of each engine and `bandwidth`, taking turns."""
    for worker in workers:
        worker.ask("fill", asked.context, asked.capacity)
        worker.ask("generate", WARM_UP)
    memory.read()
    for number in range(asked.repeat):
        bandwidth.append(memory.read())
        for engine, worker in zip(engines, workers, strict=True):
            engine.generate.append(asked.generate / worker.ask("generate", asked.generate))
        progress("generation", number + 1, asked.repeat, speeds([e.generate for e in engines]))


def time_loads(asked: BenchRequest, engines: list[Samples], progress: Progress) -> None:
    """Fill `load` of each engine, a fresh process each time, taking turns."""
    for number in range(asked.repeat):
        for engine in engines:
            with closing(Worker(asked.file, engine.backend, asked.threads)) as worker:
                engine.load.append(worker.load_seconds)
        progress("loading", number + 1, asked.repeat, "")


def speeds(rounds: list[list[float]]) -> str:
    """The last round in words."""
    return " and ".join(f"{values[-1]:.1f}" for values in rounds) + " tokens/s"
