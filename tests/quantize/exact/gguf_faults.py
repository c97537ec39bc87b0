"""Faults of the metadata of a GGUF file: what a bad converter, or a bad hand, would leave there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export import gguf
from export.gguf_general import HASHES
from runtime.gguf_file import read
from runtime.tensor import Tensor

Metadata = dict[str, Any]
ARCH = "qwen2"
GGML = "tokenizer.ggml."


def put(key: str, change: Callable[[Any], Any]) -> Callable[[Metadata], None]:
    """A fault in the value of one key."""

    def fault(metadata: Metadata) -> None:
        metadata[key] = change(metadata[key])

    return fault


def new(key: str, value: Any) -> Callable[[Metadata], None]:
    """A key that nobody asked for."""

    def fault(metadata: Metadata) -> None:
        assert key not in metadata
        metadata[key] = value

    return fault


def gone(key: str) -> Callable[[Metadata], None]:
    """A key that is missing."""

    def fault(metadata: Metadata) -> None:
        del metadata[key]

    return fault


def swapped(values: list[Any], one: int, other: int) -> list[Any]:
    """Two values in each other's place."""
    values = list(values)
    values[one], values[other] = values[other], values[one]
    return values


FAULTS: dict[str, tuple[Callable[[Metadata], None], str]] = {
    "epsilon": (put(f"{ARCH}.attention.layer_norm_rms_epsilon", lambda x: 1e-5), "epsilon"),
    "rope base": (put(f"{ARCH}.rope.freq_base", lambda x: x * 1.01), "freq_base"),
    "rope scaling": (new(f"{ARCH}.rope.scaling.type", "linear"), "rope.scaling.type"),
    "rope factor": (new(f"{ARCH}.rope.scaling.factor", 2.0), "rope.scaling.factor"),
    "context": (put(f"{ARCH}.context_length", lambda x: 16), "context_length"),
    "a scale of attention": (new(f"{ARCH}.attention.scale", 0.5), "attention.scale"),
    "a window": (new(f"{ARCH}.attention.sliding_window", 64), "sliding_window"),
    "soft caps": (new(f"{ARCH}.final_logit_softcapping", 30.0), "softcapping"),
    "two tokens swapped": (put(f"{GGML}tokens", lambda x: swapped(x, -40, -50)), "tokens["),
    "a token spelled otherwise": (
        put(f"{GGML}tokens", lambda x: [*x[:-1], x[-1] + "x"]),
        "tokens[",
    ),
    "no merges but one": (put(f"{GGML}merges", lambda x: x[:1]), "merges"),
    "the last merge missing": (put(f"{GGML}merges", lambda x: x[:-1]), "merges"),
    "merges out of order": (put(f"{GGML}merges", lambda x: swapped(x, 10, 11)), "merges[10]"),
    "a token of another kind": (
        put(f"{GGML}token_type", lambda x: [*x[:-1], 3 if x[-1] != 3 else 1]),
        "token_type",
    ),
    "another pre-tokenizer": (put(f"{GGML}pre", lambda x: "gpt-2"), "ggml.pre"),
    "another end of text": (put(f"{GGML}eos_token_id", lambda x: x - 1), "eos_token_id"),
    "no end of text": (gone(f"{GGML}eos_token_id"), "eos_token_id"),
    "one end of text too many": (
        put("edgequant.eos_token_ids", lambda x: [*x, 5]),
        "eos_token_ids",
    ),
    "an end of turn": (new(f"{GGML}eom_token_id", 7), "eom_token_id"),
    "another beginning": (new(f"{GGML}mask_token_id", 7), "mask_token_id"),
    "a beginning that nobody asked for": (
        put(f"{GGML}add_bos_token", lambda x: not x),
        "add_bos_token",
    ),
    "an end after each text": (new(f"{GGML}add_eos_token", True), "add_eos_token"),
    "a space before each text": (put(f"{GGML}add_space_prefix", lambda x: not x), "space_prefix"),
    "another padding": (put(f"{GGML}padding_token_id", lambda x: x - 1), "padding_token_id"),
    "no chat template": (gone("tokenizer.chat_template"), "chat_template"),
    "an altered chat template": (
        put("tokenizer.chat_template", lambda x: x.replace("user", "User", 1) + " "),
        "chat_template",
    ),
    "another temperature": (new("general.sampling.temp", 0.1), "general.sampling.temp"),
}
"""What went wrong -> how, and what names it."""


def with_fault(good: Path, path: Path, fault: Callable[[Metadata], None]) -> Path:
    """A copy of a file whose metadata have a fault."""
    file = read(good)
    metadata = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in file.metadata.items()
    }
    metadata = {k: v for k, v in metadata.items() if v != [] and not k.startswith(HASHES)}
    fault(metadata)
    architecture = metadata.pop("general.architecture")
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    tensors = (Tensor(t.name, t.shape, t.qtype, t.packed) for t in file.tensors.values())
    gguf.write_file(path, architecture, metadata, shapes, tensors)
    return path


def scaled(factor: float, row: int, at: int) -> Callable[[np.ndarray], None]:
    """A float16 of a row, its first byte at `at`, times a factor."""

    def fault(packed: np.ndarray) -> None:
        value = packed[row, at : at + 2].view(np.float16)
        value *= np.float16(factor)

    return fault


def rows_swapped(packed: np.ndarray) -> None:
    """Two rows in each other's place."""
    packed[[3, 7]] = packed[[7, 3]]


def zeroed(packed: np.ndarray) -> None:
    """Nothing but zeros."""
    packed[:] = 0


def one_value(packed: np.ndarray) -> None:
    """A float32 twice as large: its exponent one more."""
    values = packed.reshape(-1).view(np.float32)
    values[5] *= 2


TENSOR_FAULTS: dict[str, tuple[str, Callable[[np.ndarray], None], str]] = {
    "a scale with the other sign": ("blk.0.ffn_up.weight", scaled(-1, 17, 0), "row 17"),
    "a scale times 8": ("blk.3.ffn_down.weight", scaled(8, 4, 144), "row 4, columns "),
    "a smallest value times 8": ("blk.2.attn_q.weight", scaled(8, 9, 2), "row 9"),
    "a scale times 3 in the embedding": ("token_embd.weight", scaled(3, 2222, 208), "row 2222"),
    "two rows swapped": ("blk.1.attn_output.weight", rows_swapped, "row "),
    "a weight of zeros": ("blk.4.ffn_down.weight", zeroed, "blk.4.ffn_down.weight"),
    "a key bias of zeros": ("blk.2.attn_k.bias", zeroed, "blk.2.attn_k.bias is not"),
    "one value of a value bias": ("blk.5.attn_v.bias", one_value, "blk.5.attn_v.bias is not"),
    "one channel of a norm": ("blk.1.ffn_norm.weight", one_value, "channel 5"),
    "one channel of the last norm": ("output_norm.weight", one_value, "output_norm.weight is not"),
}
"""What went wrong -> in which tensor, how, and what names it."""


def with_tensor_fault(
    good: Path, path: Path, name: str, fault: Callable[[np.ndarray], None]
) -> Path:
    """A copy of a file with a fault in a tensor."""
    tensor = read(good).tensors[name]
    whole = bytearray(good.read_bytes())
    packed = np.frombuffer(whole, np.uint8, tensor.nbytes, tensor.offset)
    fault(packed.reshape(tensor.rows, -1))
    path.write_bytes(whole)
    return path
