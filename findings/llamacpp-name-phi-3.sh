#!/usr/bin/env bash
# llama.cpp (build 11549, in xllamacpp 2026.10.11549): the token ids of a GGUF depend on its display
# name. In a file of any architecture whose general.name contains "phi-3" or "phi3", each special
# token takes the spaces that follow it. A Llama named after the model that it was distilled from
# gets other ids for the same prompt than under any other name, without a warning.
# Seen: "a model [64, 261, 220, 220, 65]", "distilled from phi-3 [64, 261, 65]". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xllamacpp==2026.10.11549 gguf==0.19.0 numpy
cd "$folder"
./venv/bin/python - <<'PYTHON'
import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_void_p

import gguf
import numpy as np
from xllamacpp import xllamacpp

shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
tokens = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]
tokens += ["ab", "</s>", "<unk>", "<s>", "<|endoftext|>", "<|user|>"]
width, vocab = 32, len(tokens)


def write(path, name):
    """A Llama of one layer of zeros, with a byte-level vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 5)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {"token_embd": np.zeros((vocab, width)), "output_norm": np.ones(width)}
    tensors |= {f"blk.0.{n}": np.ones(width) for n in ("attn_norm", "ffn_norm")}
    tensors |= {f"blk.0.{n}": np.zeros((width, width)) for n in square}
    for tensor, values in tensors.items():
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Parameters(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * 1024),)


library = ctypes.CDLL(xllamacpp.__file__)
quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)(lambda *_: None)
library.llama_log_set(quiet, None)
library.llama_backend_init()
library.llama_model_default_params.restype = Parameters
load, vocabulary, cut = (
    library.llama_model_load_from_file,
    library.llama_model_get_vocab,
    library.llama_tokenize,
)
load.restype, load.argtypes = c_void_p, (c_char_p, Parameters)
vocabulary.restype, vocabulary.argtypes = c_void_p, (c_void_p,)
cut.argtypes = (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)


def ids(name):
    write("model.gguf", name)
    model = load(b"model.gguf", library.llama_model_default_params())
    text, room = b"a<|user|>  b", (c_int32 * 32)()
    count = cut(vocabulary(model), text, len(text), room, 32, False, True)
    return list(room[:count])


plain, named = ids("a model"), ids("distilled from phi-3")
print("a model", plain)
print("distilled from phi-3", named)
assert (plain, named) == ([64, 261, 220, 220, 65], [64, 261, 65])
PYTHON
