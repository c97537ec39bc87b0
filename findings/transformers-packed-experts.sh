#!/usr/bin/env bash
# transformers 5.23.0 with gptqmodel 7.7.0 and optimum 2.3.0: a GPTQ checkpoint of a model with
# experts, packed one by one as every published one is (mlp.experts.N.gate_proj.qweight, ...), loads
# with no error, and its experts are random: two loads have other weights. The attention, packed
# alike, is read. It does print a table with the experts as MISSING and their arrays as UNEXPECTED.
# GPTQModel's own loader takes the same folder and has one result. Seen 2026-11-30:
# "transformers: experts alike in two loads: False", "gptqmodel: logits alike in two loads: True".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
pip="env/bin/python -m pip install -q"
$pip torch==2.13.0
$pip torch==2.13.0 transformers==5.23.0 optimum==2.3.0 accelerate==1.15.0 datasets==5.2.0
$pip torch==2.13.0 pypcre logbar threadpoolctl device-smi tokenicer defuser pillow requests
$pip --no-deps gptqmodel==7.7.0
cat > try.py <<'PY'
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

GROUP, BITS, EXPERTS, WIDTH, INNER = 32, 4, 4, 64, 64


def packed(rows: int, cols: int) -> dict[str, torch.Tensor]:
    """Random codes of a linear, zero point 8."""
    words = torch.randint(-(2**31), 2**31 - 1, (cols * BITS // 32, rows), dtype=torch.int32)
    zeros = torch.full((cols // GROUP, rows * BITS // 32), 0x77777777, dtype=torch.int32)
    scales = torch.full((cols // GROUP, rows), 0.01, dtype=torch.float16)
    groups = torch.arange(cols, dtype=torch.int32) // GROUP
    return {"qweight": words, "qzeros": zeros, "scales": scales, "g_idx": groups}


config = Qwen3MoeConfig(
    vocab_size=256, hidden_size=WIDTH, intermediate_size=128, moe_intermediate_size=INNER,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    num_experts=EXPERTS, num_experts_per_tok=2, norm_topk_prob=True, tie_word_embeddings=False,
)
arrays = {}
for name, value in Qwen3MoeForCausalLM(config).half().state_dict().items():
    if ".experts." in name:
        continue
    if "_proj.weight" in name:
        part = name.removesuffix(".weight")
        arrays |= {f"{part}.{key}": a for key, a in packed(*value.shape).items()}
    else:
        arrays[name] = value.clone()
for expert in range(EXPERTS):
    for part, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
        stem = f"model.layers.0.mlp.experts.{expert}.{part}_proj"
        arrays |= {f"{stem}.{key}": a for key, a in packed(*shape).items()}
path = Path("model")
path.mkdir()
save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
settings = {"bits": BITS, "group_size": GROUP, "sym": True, "desc_act": False}
settings |= {"quant_method": "gptq", "checkpoint_format": "gptq"}
(path / "quantize_config.json").write_text(json.dumps(settings))
config.quantization_config = settings
config.architectures = ["Qwen3MoeForCausalLM"]
config.save_pretrained(path)

ids = torch.arange(10)[None]
experts = []
for _ in range(2):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float16, device_map="cpu")
    experts.append(model.model.layers[0].mlp.experts.gate_up_proj.detach().float())
alike = torch.equal(*experts)
print(f"transformers: experts alike in two loads: {alike}")

from gptqmodel import BACKEND, GPTQModel  # noqa: E402

logits = []
for _ in range(2):
    model = GPTQModel.load(str(path), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    with torch.no_grad():
        logits.append(model.model(ids).logits.float())
own = torch.equal(*logits)
print(f"gptqmodel: logits alike in two loads: {own}")
raise SystemExit(0 if (alike, own) == (False, True) else 1)
PY
GPTQMODEL_CPU_WORKERS=3 env/bin/python try.py 2>errors.txt | grep alike || { cat errors.txt >&2; exit 1; }
