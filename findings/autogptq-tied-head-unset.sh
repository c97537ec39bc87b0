#!/usr/bin/env bash
# auto-gptq 0.7.1 with transformers 4.51.3 and accelerate 1.0.1, on a CPU: a GPTQ folder of a Qwen2
# model with tie_word_embeddings true, whose file holds the embedding once as all tied checkpoints
# do, loads without an error, and then the embedding is not what the file holds, nor is the head:
# every text is computed from other numbers. The same folder untied, with the head stored, loads
# right. (Qwen2.5-0.5B, 1.5B and 3B are tied.) Seen 2026-11-30: "tied: embedding is the file's:
# False", "untied: embedding is the file's: True".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0
echo torch==2.13.0 > constraints.txt
env/bin/pip install -q -c constraints.txt auto-gptq==0.7.1 transformers==4.51.3 peft==0.13.2 \
    datasets==3.2.0 accelerate==1.0.1
cat > try.py <<'PY'
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

logging.disable(logging.WARNING)
from auto_gptq import AutoGPTQForCausalLM  # noqa: E402

GROUP, BITS = 32, 4


def packed(rows: int, cols: int) -> dict[str, torch.Tensor]:
    """Random codes of a linear, zero point 8."""
    words = torch.randint(-(2**31), 2**31 - 1, (cols * BITS // 32, rows), dtype=torch.int32)
    zeros = torch.full((cols // GROUP, rows * BITS // 32), 0x77777777, dtype=torch.int32)
    scales = torch.full((cols // GROUP, rows), 0.01, dtype=torch.float16)
    groups = torch.arange(cols, dtype=torch.int32) // GROUP
    return {"qweight": words, "qzeros": zeros, "scales": scales, "g_idx": groups}


def folder(tied: bool) -> Path:
    """A small GPTQ folder."""
    config = Qwen2Config(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )
    arrays = {}
    for name, value in Qwen2ForCausalLM(config).half().state_dict().items():
        if "_proj.weight" in name:
            part = name.removesuffix(".weight")
            arrays |= {f"{part}.{key}": a for key, a in packed(*value.shape).items()}
        elif not (tied and name == "lm_head.weight"):
            arrays[name] = value.clone()
    path = Path("tied" if tied else "untied")
    path.mkdir()
    save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
    settings = {"bits": BITS, "group_size": GROUP, "sym": True, "desc_act": False}
    (path / "quantize_config.json").write_text(json.dumps(settings))
    config.quantization_config = settings | {"quant_method": "gptq"}
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(path)
    return path


right = {}
for tied in (True, False):
    path = folder(tied)
    model = AutoGPTQForCausalLM.from_quantized(
        str(path), device="cpu", use_safetensors=True, disable_exllama=True,
        disable_exllamav2=True, inject_fused_attention=False, inject_fused_mlp=False,
        torch_dtype=torch.float32,
    ).model
    held = load_file(path / "model.safetensors")["model.embed_tokens.weight"].float()
    right[tied] = torch.equal(model.model.embed_tokens.weight.float(), held)
    print(f"{path}: embedding is the file's: {right[tied]}")
raise SystemExit(0 if right == {True: False, False: True} else 1)
PY
CUDA_VISIBLE_DEVICES='' env/bin/python try.py 2>/dev/null
