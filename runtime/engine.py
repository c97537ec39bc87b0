"""One way to run any model: `open_engine(model, "native").logits(ids)`."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np

from runtime import backends
from runtime.archs import Arch
from runtime.errors import InputError
from runtime.forward import Ops, forward, layers
from runtime.kv_cache import Cache
from runtime.model import Model
from runtime.positions import Positions
from runtime.tokenizer import Tokenizer

Purpose = Literal["generation", "judging"]
"""What an engine is opened for, where that makes a difference."""
KV_TYPES = ("f16", "f32")
"""How an engine of ours or llama.cpp keeps keys and values."""
MOST_THREADS = 1024
"""More than any machine has cores: systems refuse to start many more."""


class Engine(Protocol):
    """What generation and reports need of an engine, ours or foreign."""

    arch: Arch
    tokenizer: Tokenizer | None

    def new_cache(self, batch: int, capacity: int) -> Any:
        """An empty KV cache for `capacity` tokens."""

    def logits(self, ids: np.ndarray, cache: Any = None, last: bool = False) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, V); with `last` (B, 1, V). A cache is advanced by T.

        V are the model's tokens; of a model that scores texts (`arch.score_head`), its labels.
        """


class OpsEngine:
    """`forward.py` on one set of Ops."""

    def __init__(self, model: Model, ops: Ops) -> None:
        self.arch, self.tokenizer, self.ops = model.arch, model.tokenizer, ops
        self.weights = {name: ops.load(tensor) for name, tensor in model.tensors.items()}
        self.layers = layers(model.arch, self.weights)

    def new_cache(self, batch: int, capacity: int) -> Any:
        return Cache.empty(self.ops, self.arch, batch, capacity)

    def logits(self, ids: np.ndarray, cache: Any = None, last: bool = False) -> np.ndarray:
        return self.logits_at(None, ids, cache, last)

    def logits_at(
        self, positions: Positions | None, ids: np.ndarray, cache: Any = None, last: bool = False
    ) -> np.ndarray:
        """`logits` of tokens that stand elsewhere, or are not what their ids say."""
        model = (self.ops, self.arch, self.weights, self.layers)
        return self.ops.numpy(forward(*model, ids, cache, last, positions))


def backend_names() -> list[str]:
    """Every backend: the files of runtime/backends."""
    return sorted(file.name for file in pkgutil.iter_modules(backends.__path__))


def reads_files(backend: str) -> bool:
    """Whether a backend is given a path, not a Model. Raises EdgequantError for an unknown one."""
    return bool(getattr(_module(backend), "READS_FILES", False))


def open_engine(
    model: Any, backend: str = "native", *, purpose: Purpose | None = None, **options: Any
) -> Engine:
    """Run `model` (a Model, or a path where `reads_files`) on a backend.

    With a `purpose`, options that the backend names for it are added; those given win.
    Raises EdgequantError for an unknown backend, one whose package is not installed, or threads out
    of range, and TypeError for an option that the backend does not have.
    """
    module = _module(backend)
    _check_options(backend, options)
    if purpose is not None:
        options = getattr(module, "PURPOSES", {}).get(purpose, {}) | options
    engine: Engine = module.open(model, **options)
    return engine


def option_names(backend: str) -> list[str]:
    """The options of a backend. Raises EdgequantError for an unknown one."""
    return list(inspect.signature(_module(backend).open).parameters)[1:]


def _check_options(backend: str, options: dict[str, Any]) -> None:
    """Whether a backend has these options, and can have so many threads."""
    known = option_names(backend)
    for name in options:
        if name not in known:
            there = f"has {', '.join(known)}" if known else "has none"
            raise TypeError(f"the {backend} backend has no option {name!r}; it {there}.")
    threads = options.get("threads")
    whole = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= MOST_THREADS):
        raise InputError(
            f"threads must be a whole number from 1 to {MOST_THREADS}, not {threads!r}."
        )


def check_kv(kv: str) -> None:
    """Raise InputError for an unknown type of keys and values."""
    if kv not in KV_TYPES:
        raise InputError(f"unknown type of KV cache {kv!r}; known: {', '.join(KV_TYPES)}.")


def _module(backend: str) -> ModuleType:
    """The file of runtime/backends, imported."""
    if backend not in backend_names():
        raise InputError(f"unknown backend {backend!r}; known: {', '.join(backend_names())}.")
    return importlib.import_module(f"runtime.backends.{backend}")
