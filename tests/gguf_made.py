"""A GGUF of one layer of zeros around any vocabulary, written with the gguf package."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH = 32


def bytes_alphabet() -> list[str]:
    """How byte-level vocabularies write each of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(rest))]


def tiny_gguf(
    path: Path,
    tokens: list[str],
    keys: dict[str, Any],
    tensors: dict[str, np.ndarray] | None = None,
    types: list[int] | None = None,
    most: int = 0,
) -> Path:
    """Write a Llama of one layer; returns the path.

    `keys` are metadata, by whole names, whose values are str, bool, int, float or lists; None
    leaves a usual key out. `tensors` replace or, with a size of 0, remove those of zeros. With
    `most` the model goes in parts of so many tensors.
    """
    usual = {
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types or [1] * len(tokens),
        "tokenizer.ggml.merges": ["a b"],
    }
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=most)
    for key, value in (usual | keys).items():
        if value is not None:
            _add(writer, key, value)
    for name, values in (_zeros(len(tokens)) | (tensors or {})).items():
        if values.size:
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A key with the type that readers expect; bool is an int for Python, but not for GGUF."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _zeros(vocab: int) -> dict[str, np.ndarray]:
    """The tensors of a Llama of one layer that computes nothing."""
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    found = {"token_embd": np.zeros((vocab, WIDTH)), "output_norm": np.ones(WIDTH)}
    found |= {f"blk.0.{name}": np.ones(WIDTH) for name in ("attn_norm", "ffn_norm")}
    found |= {f"blk.0.{name}": np.zeros((WIDTH, WIDTH)) for name in square}
    return {f"{name}.weight": values for name, values in found.items()}
