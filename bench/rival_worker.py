"""llama.cpp or ik_llama.cpp, from whichever package, in the place of `quantize.bench.worker`.

    PYTHON bench/rival_worker.py '{"file": "a.gguf", "backend": "llama_cpp repacked", "threads": 2}'

PYTHON is that of an environment with the package: llama-cpp-python (`llama_cpp`), which pip
compiles for the processor at hand, the libraries of node-llama-cpp, which are compiled for every
processor (`node_llama_cpp`, see prebuilt_llamacpp.sh), or ik-llama-cpp-python (`ik_llama_cpp`).
"repacked" has weights rearranged as they are loaded, which all may do and which makes them faster
or slower by type and processor. "without AMX" leaves out the library for AMX. Needs numpy and
nothing of ours; takes the same jobs and gives the same answers as `quantize/bench/worker.py`.
"""

import ctypes
import importlib
import json
import os
import sys
import time
from ctypes import byref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

STEP = 512
"""Tokens of a prompt that are given at a time: llama.cpp's own batch."""
PREBUILT = "node_llama_cpp"
LIBRARIES = Path(sys.prefix) / "llama.cpp"
"""Those of the prebuilt llama.cpp."""
PACKAGES = {
    PREBUILT: ("llama_cpp", "use_extra_bufts"),
    "llama_cpp": ("llama_cpp", "use_extra_bufts"),
    "ik_llama_cpp": ("ik_llama_cpp._ctypes_api", "repack_tensors"),
}
"""Package -> the module with its C functions, and the setting that rearranges weights."""


class Library(ctypes.CDLL):
    """A library that may lack functions which llama-cpp-python declares, being a little older."""

    def __getitem__(self, name: Any) -> Any:
        try:
            return super().__getitem__(name)
        except AttributeError:
            return ctypes.CFUNCTYPE(None)()  # nobody calls it: a call would be one of address 0


def load_prebuilt(amx: bool) -> None:
    """Have llama-cpp-python find the prebuilt libraries, and load the one for this processor."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(LIBRARIES)
    ctypes.CDLL = Library  # type: ignore[misc]
    backends = Library(str(LIBRARIES / "libggml.so"))
    if amx:
        backends["ggml_backend_load_all_from_path"](str(LIBRARIES).encode())
    else:
        backends["ggml_backend_load"](str(LIBRARIES / "libggml-cpu-cooperlake.so").encode())


def check_settings(api: ModuleType) -> None:
    """Raise AssertionError where settings of the libraries lie elsewhere than the package says."""
    params = api.llama_context_default_params()
    known = (params.n_ctx, params.n_batch, params.n_ubatch) == (512, 2048, 512)
    assert known, "its settings lie elsewhere; this needs another version of llama-cpp-python"


class Rival:
    """A model of one package, with one sequence in a context."""

    def __init__(self, file: str, backend: str, threads: int) -> None:
        package, _, form = backend.partition(" ")
        module, setting = PACKAGES[package]
        if package == PREBUILT:
            load_prebuilt(amx="without AMX" not in form)
        self.api: ModuleType = importlib.import_module(module)
        if package == PREBUILT:
            check_settings(self.api)
        self.threads = threads
        self.api.llama_backend_init()
        self.random = np.random.default_rng(0)  # the same tokens for every engine
        start = time.perf_counter()
        params = self.api.llama_model_default_params()
        assert hasattr(params, setting), f"{package} has no {setting}; this needs another version"
        setattr(params, setting, "repacked" in form)
        params.n_gpu_layers = 0
        self.model = self.api.llama_model_load_from_file(file.encode(), params)
        assert self.model, f"{package} cannot load {file}"
        self.context: Any = None
        self.open(1)
        self.feed(1, 1)
        self.seconds = time.perf_counter() - start

    def open(self, capacity: int) -> None:
        """An empty context for so many tokens."""
        if self.context:
            self.api.llama_free(self.context)
        params = self.api.llama_context_default_params()
        params.n_ctx = capacity
        params.n_batch = params.n_ubatch = STEP
        params.n_threads = params.n_threads_batch = self.threads
        self.context = self.api.llama_init_from_model(self.model, params)
        assert self.context, f"no context of {capacity} tokens"
        self.length = 0

    def feed(self, tokens: int, step: int, every: bool = False) -> float:
        """Seconds for random tokens, `step` at a time; of each step the last one has logits, or
        every one."""
        vocab = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))
        ids = self.random.integers(vocab, size=tokens)
        batch = self.api.llama_batch_init(step, 0, 1)
        start = time.perf_counter()
        for at in range(0, tokens, step):
            some = ids[at : at + step]
            batch.n_tokens = len(some)
            for i, token in enumerate(some):
                batch.token[i], batch.pos[i] = int(token), self.length + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = every or i + 1 == len(some)
            code = self.api.llama_decode(self.context, batch)
            assert code == 0, f"llama_decode gave {code}"
            self.api.llama_get_logits_ith(self.context, len(some) - 1)
            self.length += len(some)
        took = time.perf_counter() - start
        self.api.llama_batch_free(batch)
        return took

    def prompt(self, tokens: int) -> float:
        """Read a prompt into an empty cache."""
        self.open(tokens)
        return self.feed(tokens, min(STEP, tokens))

    def fill(self, tokens: int, capacity: int) -> float:
        """Begin a generation after `tokens` tokens."""
        self.open(capacity)
        return self.feed(tokens, STEP) if tokens else 0.0

    def generate(self, tokens: int) -> float:
        """Go on with the generation that `fill` began."""
        return self.feed(tokens, 1)

    def windows(self, count: int, length: int, every: int) -> float:
        """CPU seconds of `count` windows, each in an empty cache, with the logits of every token
        or of the last one."""
        start = time.process_time()
        for _ in range(count):
            self.open(length)
            self.feed(length, length, bool(every))
        return time.process_time() - start

    def quantize(self, base: str, output: str, file_type: int) -> float:
        """CPU seconds of llama.cpp's own quantizer, without an importance matrix."""
        params = self.api.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, self.threads
        start = time.process_time()
        code = self.api.llama_model_quantize(base.encode(), output.encode(), byref(params))
        assert code == 0, f"llama_model_quantize gave {code}"
        return time.process_time() - start

    def memory(self) -> dict[str, int]:
        """Resident bytes."""
        line = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        return {"resident": int(line.split()[1]) * 1024}

    def instruction_sets(self) -> list[str]:
        """What the library says that it was compiled for, or found."""
        told = getattr(self.api, "llama_print_system_info", None)
        if told is None:
            from ctypes import c_char_p

            told = self.api._lib.llama_print_system_info
            told.restype = c_char_p
        words = told().decode().replace("|", " ").replace(":", " ").split()
        triples = zip(words, words[1:], words[2:], strict=False)
        return [name for name, sign, value in triples if sign == "=" and value == "1"]


def main() -> None:
    """Load, then do jobs until the input ends."""
    asked = json.loads(sys.argv[1])
    out = sys.stdout
    sys.stdout = sys.stderr
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # the libraries tell a lot

    def say(**line: Any) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        rival = Rival(asked["file"], asked["backend"], asked["threads"])
        say(answer=rival.seconds)
        for line in sys.stdin:
            job, *arguments = json.loads(line)
            say(answer=getattr(rival, job)(*arguments))
    except (AssertionError, AttributeError, ImportError) as error:
        say(error=f"{asked['backend']}: {error}", error_class="UnsupportedError")


if __name__ == "__main__":
    main()
