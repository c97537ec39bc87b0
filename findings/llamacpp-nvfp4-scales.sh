#!/usr/bin/env bash
# llama.cpp (build 11549, in xllamacpp 2026.10.11549): a GGUF in NVFP4 holds beside each weight the
# scale of its tensor, NAME.scale, by which a product must be multiplied. Of a qwen2 file those of
# attn_q, attn_k, attn_v and attn_output are; those of ffn_gate, ffn_up and ffn_down are loaded, so
# that no complaint about them comes, and left out of the computation. In a llama file, of the same
# tensors, they count. (qwen2moe and smollm3 do as qwen2, qwen3 and qwen3moe as llama.)
# Seen: "llama attn_output True ffn_down True", "qwen2 attn_output True ffn_down False": whether the
# logits change with a scale of 3. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xllamacpp==2026.10.11549 gguf==0.19.0 numpy
cd "$folder"
./venv/bin/python - <<'PYTHON'
import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_void_p

import gguf
import numpy as np
from xllamacpp import xllamacpp

NVFP4 = gguf.GGMLQuantizationType.NVFP4
shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
tokens = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))] + ["ab"]
width, vocab = 64, len(tokens)


def nvfp4(rng):
    """A random matrix (width, width): of each row 4 scales of 1 and 32 bytes of codes."""
    rows = rng.integers(0, 256, (width, 36), dtype=np.uint8)
    rows[:, :4] = 0x38
    return rows


def write(path, arch, scaled):
    """A model of one layer in NVFP4, whose weight `scaled` has a scale of 3."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * vocab)
    writer.add_token_merges(["a b"])
    tensors = {"token_embd": rng.normal(size=(vocab, width)), "output_norm": np.ones(width)}
    tensors |= {f"blk.0.{n}": np.ones(width) for n in ("attn_norm", "ffn_norm")}
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", nvfp4(rng), raw_dtype=NVFP4)
        if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.0.{name}.bias", np.zeros(width, np.float32))
        scale = 3.0 if name == scaled else 1.0
        writer.add_tensor(f"blk.0.{name}.scale", np.full(1, scale, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Settings(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * 1024),)


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("others", c_void_p * 5),
    )


library = ctypes.CDLL(xllamacpp.__file__)
quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)(lambda *_: None)
library.llama_log_set(quiet, None)
library.llama_backend_init()
library.llama_model_default_params.restype = Settings
library.llama_context_default_params.restype = Settings
load, start, decode, read, one = (
    library.llama_model_load_from_file,
    library.llama_init_from_model,
    library.llama_decode,
    library.llama_get_logits,
    library.llama_batch_get_one,
)
load.restype, load.argtypes = c_void_p, (c_char_p, Settings)
start.restype, start.argtypes = c_void_p, (c_void_p, Settings)
one.restype, one.argtypes = Batch, (POINTER(c_int32), c_int32)
decode.restype, decode.argtypes = c_int32, (c_void_p, Batch)
read.restype, read.argtypes = POINTER(c_float), (c_void_p,)


def logits(arch, scaled):
    """Logits after three tokens."""
    write("model.gguf", arch, scaled)
    context = start(
        load(b"model.gguf", library.llama_model_default_params()),
        library.llama_context_default_params(),
    )
    assert decode(context, one((c_int32 * 3)(5, 9, 70), 3)) == 0
    return np.ctypeslib.as_array(read(context), (vocab,)).copy()


seen = {}
for arch in ("llama", "qwen2"):
    plain = logits(arch, None)
    seen[arch] = {
        name: not np.array_equal(logits(arch, name), plain) for name in ("attn_output", "ffn_down")
    }
    print(arch, *(word for pair in seen[arch].items() for word in pair))
assert seen["llama"] == {"attn_output": True, "ffn_down": True}
assert seen["qwen2"] == {"attn_output": True, "ffn_down": False}
PYTHON
