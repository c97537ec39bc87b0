#!/usr/bin/env bash
# peft 0.21: a model whose output head is its embedding, and a LoRA on one of the two or on both.
# While the adapter runs, each has its own update. merge_and_unload adds every update to the one
# weight that both share, so the merged model is not the one that was trained: an update of the head
# alone changes what the model reads, too. With ensure_weight_tying=True, which is there for tied
# models, both have the same update, and the merge adds it twice.
# Seen: the largest difference of logits between the running and the merged adapter is of the size of
# the logits in every case, and under 1e-4 where only q_proj is trained. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  peft==0.21.2 transformers==5.23.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

warnings.simplefilter("ignore")
sizes = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
cases = {
    "q_proj": (["q_proj"], False),
    "lm_head": (["lm_head"], False),
    "embed_tokens": (["embed_tokens"], False),
    "both, ensure_weight_tying": (["embed_tokens", "lm_head"], True),
}
ids = torch.arange(20)[None]
for name, (targets, tying) in cases.items():
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**sizes))
    settings = LoraConfig(target_modules=targets, ensure_weight_tying=tying, r=4)
    model = get_peft_model(base, settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
        running = model(ids).logits
        merged = model.merge_and_unload()(ids).logits
    difference = float((running - merged).abs().max())
    print(f"{name}: logits up to {running.abs().max():.2f}, difference {difference:.5f}")
    assert (difference < 1e-4) == (name == "q_proj")
PYTHON
