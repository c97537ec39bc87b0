"""One engine in a process of its own, so that loading starts from nothing and memory is its own.

    python -m quantize.bench.worker '{"file": "a.gguf", "backend": "native", "threads": 2}'

The first line of its output says how long loading took. Then each line of JSON on its input is one
job, `["prompt", 512]`, and is answered by one line: `{"answer": ...}`, or `{"error": SENTENCE,
"error_class": CLASS}` after which it ends. Only the runtime is imported here: torch would count as
memory.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.containers import recognise
from runtime.engine import Engine, open_engine, reads_files
from runtime.errors import EdgequantError
from runtime.gguf_file import read_arch

STEP = 512
"""Tokens of a prompt that an engine is given at a time: llama.cpp's own batch."""
STATUS = Path("/proc/self/status")
MEMORY = {"resident": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
"""Our word for a figure of this process -> Linux's."""


@dataclass
class Bench:
    """What is done with an open engine; each job gives seconds unless it says otherwise."""

    engine: Engine
    backend: str
    cache: Any = None
    """Of the generation that `fill` begins."""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    """Every engine of the same model gets the same tokens."""

    def prompt(self, tokens: int) -> float:
        """Read a prompt into an empty cache, up to the logits of its last token."""
        return self.feed(self.engine.new_cache(1, tokens), tokens, STEP)

    def fill(self, tokens: int, capacity: int) -> float:
        """Begin a generation after `tokens` tokens of context, with room for `capacity` in all."""
        self.cache = self.engine.new_cache(1, capacity)
        return self.feed(self.cache, tokens, STEP)

    def generate(self, tokens: int) -> float:
        """Go on with the generation that `fill` began, token by token."""
        return self.feed(self.cache, tokens, 1)

    def feed(self, cache: Any, tokens: int, step: int) -> float:
        """Random tokens through the engine, `step` at a time."""
        ids = self.random.integers(self.engine.arch.vocab, size=(1, tokens))
        start = time.perf_counter()
        for at in range(0, tokens, step):
            self.engine.logits(ids[:, at : at + step], cache, last=True)
        return time.perf_counter() - start

    def memory(self) -> dict[str, int]:
        """Bytes by the words of MEMORY; empty where the system does not tell."""
        lines = STATUS.read_text().splitlines() if STATUS.exists() else []
        told = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return {
            word: int(told[name].split()[0]) * 1024 for word, name in MEMORY.items() if name in told
        }

    def instruction_sets(self) -> list[str]:
        """The instruction sets that our kernels have here, simplest first, and the one in use."""
        if self.backend != "native":
            return []
        native = importlib.import_module("runtime._native")
        return [*native.instruction_sets(), native.instruction_set()]


def opener(file: Path, backend: str, threads: int) -> Callable[[], Engine]:
    """What loads the file; packages are imported, and arguments made, before it is timed."""
    from_file = reads_files(backend)
    if backend == "llamacpp":
        # our own tokenizer, which its engine carries too, is no part of llama.cpp's loading
        llamacpp = importlib.import_module("runtime.backends.llamacpp")
        llamacpp.load_library()
        arch = read_arch(file)
        return lambda: llamacpp.LlamaEngine(file, arch, None, threads, "f16")
    # as `quantize generate` opens it
    options: dict[str, Any] = {"purpose": "generation", "threads": threads}
    if from_file:
        return lambda: open_engine(file, backend, **options)
    reader = recognise(file)
    return lambda: open_engine(reader.open(file), backend, **options)


def load(file: Path, backend: str, threads: int) -> tuple[Engine, float]:
    """An engine, and the seconds from the first look at the file to the logits of a token."""
    open_file = opener(file, backend, threads)
    start = time.perf_counter()
    engine = open_file()
    engine.logits(np.zeros((1, 1), np.int64), engine.new_cache(1, 1), last=True)
    return engine, time.perf_counter() - start


def say(**line: Any) -> None:
    """One line of output."""
    print(json.dumps(line), flush=True)


def main() -> None:
    """Load, then do jobs until the input ends."""
    asked = json.loads(sys.argv[1])
    try:
        engine, seconds = load(Path(asked["file"]), asked["backend"], asked["threads"])
        bench = Bench(engine, asked["backend"])
        say(answer=seconds)
        for line in sys.stdin:
            job, *arguments = json.loads(line)
            say(answer=getattr(bench, job)(*arguments))
    except (EdgequantError, OSError) as error:
        say(error=str(error), error_class=type(error).__name__)


if __name__ == "__main__":
    main()
