"""Run a GGUF file in llama.cpp itself, to check our files where users run them.

The wheel of xllamacpp carries llama.cpp's C interface. It is called with ctypes, without a copy of
its header: the two structures of settings stay opaque, only the batch is spelled out. llama.cpp
rounds activations to 8 bits before it multiplies them with quantized weights, and keeps keys and
values as float16 unless it is told otherwise, so logits agree with ours to a few 1e-4 of KL
divergence, not bit for bit.
"""

import ctypes
import platform
import weakref
from ctypes import POINTER, c_char_p, c_float, c_int8, c_int32, c_uint8, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import Arch
from runtime.engine import check_kv
from runtime.errors import CorruptFileError, InputError, SpaceError, UnsupportedError
from runtime.gguf_file import arch_and_tokenizer
from runtime.gguf_parts import part_paths
from runtime.tokenizer import Tokenizer

READS_FILES = True
PURPOSES = {"judging": {"kv": "f32"}}

STEP = 512
"""Tokens given to llama.cpp at a time: no more than its default batch."""


class _Settings(ctypes.Structure):
    """Parameters of a model or a context, longer than either: the callee reads what it knows."""

    _fields_ = (("bytes", c_uint8 * 1024),)


class _Batch(ctypes.Structure):
    """llama_batch: one entry a token."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


Log = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (Log, c_void_p)),
    "llama_model_default_params": (_Settings, ()),
    "llama_context_default_params": (_Settings, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, _Settings)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, _Settings)),
    "llama_free": (None, (c_void_p,)),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_decode": (c_int32, (c_void_p, _Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
}
"""Function -> what it returns and takes."""

ERROR = 4
"""Level of a log line that says why something failed."""

_complaints: list[str] = []
"""What llama.cpp last logged as errors: the reasons of our own sentences."""
_told: list[str] = []
"""What it last logged about the types of keys and values and about flash attention."""

UNSET = b"\xff" * 16
"""How a context's settings leave four choices to llama.cpp; the last is flash attention."""
CACHE_TYPES = bytes(16) + (1).to_bytes(4, "little") * 2
"""How they name the types of keys and values: two callbacks that are not set, and two float16 (1 in
ggml's list)."""


def _listen(level: int, text: bytes | None, data: int | None) -> None:
    """Keep errors and the caches' types; nothing of llama.cpp's log reaches the screen."""
    line = (text or b"").decode("utf-8", "replace").strip()
    if level == ERROR and line:
        _complaints.append(line)
    if ("K (" in line and "V (" in line) or " flash_attn " in line:
        _told.append(line)


_listener = Log(_listen)  # llama.cpp keeps its address


def _hear(library: Any) -> None:
    """Forget what was logged and listen from here on: a server of xllamacpp in the same process
    takes the log away."""
    _complaints.clear()
    _told.clear()
    library.llama_log_set(_listener, None)


@cache
def load_library() -> Any:
    """llama.cpp, loaded and silenced. Raises EdgequantError where it is not installed."""
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() == "Windows":
        raise UnsupportedError(
            "the llama.cpp backend passes opaque structures, which only works on x86-64 outside "
            f"Windows, not on {platform.system()} {platform.machine()}; use the native backend."
        )
    try:
        from xllamacpp import xllamacpp
    except ImportError:
        raise UnsupportedError(
            "running a file in llama.cpp needs xllamacpp; pip install xllamacpp."
        ) from None
    library = ctypes.CDLL(xllamacpp.__file__)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _hear(library)
    library.llama_backend_init()
    return library


class LlamaCache:
    """Keys and values of each row so far, inside contexts of llama.cpp."""

    def __init__(self, engine: "LlamaEngine", batch: int, capacity: int) -> None:
        self.engine = engine  # the contexts need its model to outlive them
        self.capacity, self.length = capacity, 0
        self.rows = [engine.context(capacity) for _ in range(batch)]
        for row in self.rows:
            weakref.finalize(self, load_library().llama_free, row)


class LlamaEngine:
    """One loaded model."""

    def __init__(
        self, path: Path, arch: Arch, tokenizer: Tokenizer | None, threads: int, kv: str
    ) -> None:
        self.arch, self.tokenizer, self.threads, self.kv = arch, tokenizer, threads, kv
        self.library = load_library()
        _hear(self.library)
        settings = self.library.llama_model_default_params()
        self.model = self.library.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            raise CorruptFileError(
                f"llama.cpp cannot load {path}: {_reason()}; write the file again."
            )
        weakref.finalize(self, self.library.llama_model_free, self.model)

    def context(self, capacity: int) -> int:
        """A context with room for `capacity` tokens."""
        _hear(self.library)
        settings = self.library.llama_context_default_params()
        most = min(capacity, 2**32 - 1)  # n_ctx is the first field, a uint32
        settings.bytes[0:4] = list(most.to_bytes(4, "little"))
        if self.kv == "f32":
            _keep_float32(settings)
        found = self.library.llama_init_from_model(self.model, settings)
        if not found:
            raise SpaceError(
                f"llama.cpp has no room for {capacity} tokens: {_reason()}; ask for fewer."
            )
        told = " ".join(_told)
        if self.kv == "f32" and ("(f32)" not in told or "(f16)" in told or "disabled" not in told):
            self.library.llama_free(found)
            raise _no_float32(f"it says {told!r}")
        self.library.llama_set_n_threads(found, self.threads, self.threads)
        return int(found)

    def new_cache(self, batch: int, capacity: int) -> LlamaCache:
        """An empty cache for `batch` rows of `capacity` tokens."""
        return LlamaCache(self, batch, capacity)

    def logits(
        self, ids: np.ndarray, cache: LlamaCache | None = None, last: bool = False
    ) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, V); with `last` (B, 1, V). A cache is advanced by T.

        Raises EdgequantError when the cache is full or llama.cpp fails.
        """
        batch, tokens = ids.shape
        past = cache if cache is not None else self.new_cache(batch, tokens)
        if past.length + tokens > past.capacity:
            raise InputError(
                f"{past.length + tokens} tokens do not fit in {past.capacity}; "
                "shorten the text or ask for a larger cache."
            )
        out = np.empty((batch, 1 if last else tokens, self.arch.vocab), np.float32)
        for row, context in enumerate(past.rows):
            for start in range(0, tokens, STEP):
                piece = ids[row, start : start + STEP]
                wanted = np.full(len(piece), not last)
                wanted[-1] |= start + len(piece) == tokens
                found = self._decode(context, piece, past.length + start, wanted)
                at = 0 if last else start
                out[row, at : at + len(found)] = found
        past.length += tokens
        return out

    def _decode(
        self, context: int, ids: np.ndarray, position: int, wanted: np.ndarray
    ) -> np.ndarray:
        """Advance one row by ids (T,); the logits of the `wanted` tokens: (wanted, V) float32."""
        count = len(ids)
        token = np.ascontiguousarray(ids, np.int32)
        pos = np.arange(position, position + count, dtype=np.int32)
        flags = wanted.astype(np.int8)
        sequence = ctypes.pointer(c_int32(0))
        batch = _Batch(
            n_tokens=count,
            token=token.ctypes.data_as(POINTER(c_int32)),
            pos=pos.ctypes.data_as(POINTER(c_int32)),
            n_seq_id=(c_int32 * count)(*[1] * count),
            seq_id=(POINTER(c_int32) * count)(*[sequence] * count),
            logits=flags.ctypes.data_as(POINTER(c_int8)),
        )
        _hear(self.library)
        code = self.library.llama_decode(context, batch)
        if code:
            raise InputError(
                f"llama.cpp failed on {count} tokens with code {code}: {_reason()}; "
                "shorten the text or check the token ids."
            )
        rows = [self.library.llama_get_logits_ith(context, int(i)) for i in np.flatnonzero(wanted)]
        shape = (len(rows), self.arch.vocab)
        return np.array([np.ctypeslib.as_array(row, shape[1:]) for row in rows]).reshape(shape)


def _keep_float32(settings: _Settings) -> None:
    """Keys and values in float32, without flash attention: on a CPU it rounds them to float16
    whatever the cache holds (llama.cpp of October 2026)."""
    found = bytes(settings.bytes)
    flash, types = found.find(UNSET) + 12, found.find(CACHE_TYPES) + 16
    if flash < 12 or types < 16:
        raise _no_float32("its settings have another layout")
    settings.bytes[flash : flash + 4] = [0] * 4
    settings.bytes[types : types + 8] = [0] * 8


def _no_float32(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"this llama.cpp does not keep keys and values in float32: {reason}; use kv='f16'."
    )


def _reason() -> str:
    """What llama.cpp last complained about."""
    return "; ".join(_complaints[:2]) or "it gives no reason"


def open(path: Path | str, threads: int = 2, kv: str = "f16") -> LlamaEngine:
    """Load a GGUF file into llama.cpp, on `threads` cores, with keys and values as `kv`.

    Raises EdgequantError when xllamacpp is not installed or the file does not load.
    """
    check_kv(kv)
    path = part_paths(Path(path))[0]  # llama.cpp finds the other parts from the first one alone
    arch, tokenizer = arch_and_tokenizer(path)
    return LlamaEngine(path, arch, tokenizer, threads, kv)
