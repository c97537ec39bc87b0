#!/usr/bin/env bash
# llama.cpp (build 11549, in xllamacpp 2026.10.11549): a float32 cache of keys and values changes
# nothing while flash attention is on, and "auto", the default, turns it on on a CPU. The graph casts
# keys and values to float16 in front of the attention, whatever the cache holds: the memory is
# doubled, the log says "K (f32)", and the logits are those of the float16 cache to the last bit.
# With key biases as large as Qwen2.5's (norm 900) that is a KL of 1e-3 and more on an F32 file.
# Seen: "float16 and float32 caches, flash attention: equal; float32 without it: differs". Fails
# when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xllamacpp==2026.10.11549 gguf==0.19.0 numpy
cd "$folder"
./venv/bin/python - <<'PYTHON'
import ctypes
from ctypes import POINTER, c_float, c_int32, c_int8, c_uint8, c_void_p

import gguf
import numpy as np
from xllamacpp import xllamacpp

width, vocab, length = 64, 300, 32
chance = np.random.default_rng(0)
writer = gguf.GGUFWriter("model.gguf", "qwen2")
writer.add_block_count(1)
writer.add_context_length(64)
writer.add_embedding_length(width)
writer.add_feed_forward_length(width)
writer.add_head_count(2)
writer.add_head_count_kv(2)
writer.add_rope_freq_base(1e6)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_tokenizer_model("none")
writer.add_vocab_size(vocab)
square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
tensors = {"token_embd.weight": chance.normal(size=(vocab, width))}
tensors |= {f"{n}.weight": np.ones(width) for n in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
tensors |= {f"blk.0.{n}.weight": chance.normal(size=(width, width)) / 8 for n in square}
tensors |= {f"blk.0.{n}.bias": np.zeros(width) for n in ("attn_q", "attn_v")}
tensors["blk.0.attn_k.bias"] = np.full(width, 900 / 8.0)
for name, values in tensors.items():
    writer.add_tensor(name, values.astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


class Parameters(ctypes.Structure):
    _fields_ = (("bytes", c_uint8 * 1024),)


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", c_void_p),
        ("pos", POINTER(c_int32)), ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))), ("logits", POINTER(c_int8)),
    )


library = ctypes.CDLL(xllamacpp.__file__)
lines = []
logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, c_void_p)
listen = logger(lambda level, text, data: lines.append((text or b"").decode()))
library.llama_log_set(listen, None)
library.llama_backend_init()
library.llama_model_default_params.restype = Parameters
library.llama_context_default_params.restype = Parameters
load, start, decode, result = (
    library.llama_model_load_from_file, library.llama_init_from_model,
    library.llama_decode, library.llama_get_logits_ith,
)
load.restype, load.argtypes = c_void_p, (ctypes.c_char_p, Parameters)
start.restype, start.argtypes = c_void_p, (c_void_p, Parameters)
decode.argtypes = (c_void_p, Batch)
result.restype, result.argtypes = POINTER(c_float), (c_void_p, c_int32)
model = load(b"model.gguf", library.llama_model_default_params())


def logits(cache, flash):
    """Those of the last token; the settings' fields are found by their defaults, and the log says
    whether they were the right ones."""
    settings = library.llama_context_default_params()
    found = bytes(settings.bytes)
    types = found.index(bytes(16) + b"\1\0\0\0" * 2) + 16
    choices = found.index(b"\xff" * 16) + 12
    settings.bytes[types : types + 8] = [cache, 0, 0, 0] * 2
    settings.bytes[choices : choices + 4] = [flash, 0, 0, 0]
    lines.clear()
    context = start(model, settings)
    told = "".join(lines)
    assert told.count("(f32)" if cache == 0 else "(f16)") == 2, told
    assert f"flash_attn            = {'enabled' if flash else 'disabled'}" in told, told
    ids = np.arange(1, length + 1, dtype=np.int32)
    flags = np.zeros(length, np.int8)
    flags[-1] = 1
    sequence = ctypes.pointer(c_int32(0))
    batch = Batch(
        length, ids.ctypes.data_as(POINTER(c_int32)), None,
        np.arange(length, dtype=np.int32).ctypes.data_as(POINTER(c_int32)),
        (c_int32 * length)(*[1] * length), (POINTER(c_int32) * length)(*[sequence] * length),
        flags.ctypes.data_as(POINTER(c_int8)),
    )
    assert decode(context, batch) == 0
    return np.ctypeslib.as_array(result(context, length - 1), (vocab,)).copy()


half, single, plain = logits(1, 1), logits(0, 1), logits(0, 0)
same = "equal" if np.array_equal(half, single) else "differ"
other = "differs" if np.abs(single - plain).max() > 1e-4 else "is equal"
told = f"float16 and float32 caches, flash attention: {same}; float32 without it: {other}"
print(told, np.abs(single - plain).max())
assert told == "float16 and float32 caches, flash attention: equal; float32 without it: differs"
PYTHON
