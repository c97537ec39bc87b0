#!/usr/bin/env bash
# transformers 5.23: an FP8 checkpoint with a scale for each block of 128 x 128 weights (Qwen's and
# DeepSeek's releases) has a last block that is cut short where 128 does not divide the rows.
# Without a card the weights are decoded as they are loaded, and a block is then taken to be as many
# rows as there are for each row of scales: 192 rows with 2 rows of scales get blocks of 96. Every
# weight of rows 96 to 127 has another block's scale, without a warning, although weight_block_size
# says 128.
# Seen: "blocks of 128: differs; blocks of 96: equal". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.23.0 torch==2.13.0 accelerate==1.15.0
cd "$folder"
./venv/bin/python - <<'PYTHON'
import json

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

sizes = {"hidden_size": 256, "intermediate_size": 192, "num_hidden_layers": 1}
config = Qwen2Config(vocab_size=32, num_attention_heads=4, num_key_value_heads=4, **sizes)
Qwen2ForCausalLM(config).save_pretrained("model")
tensors = load_file("model/model.safetensors")
for name in [name for name in tensors if name.endswith("_proj.weight")]:
    rows, cols = tensors[name].shape
    tensors[name] = torch.randn(rows, cols).to(torch.float8_e4m3fn)
    tensors[f"{name}_scale_inv"] = torch.rand(-(-rows // 128), -(-cols // 128)) + 0.5
save_file(tensors, "model/model.safetensors", metadata={"format": "pt"})
with open("model/config.json") as file:
    facts = json.load(file)
facts["quantization_config"] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head"],
}
with open("model/config.json", "w") as file:
    json.dump(facts, file)

model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32, device_map="cpu")
found = model.model.layers[0].mlp.up_proj.weight.detach()
codes = tensors["model.layers.0.mlp.up_proj.weight"].float()
scales = tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]  # (2, 2)


def equal(block):
    wide = scales.repeat_interleave(block, 0)[:192].repeat_interleave(128, 1)
    return torch.equal(found, codes * wide)


words = {True: "equal", False: "differs"}
print(f"blocks of 128: {words[equal(128)]}; blocks of 96: {words[equal(96)]}")
assert not equal(128) and equal(96), "transformers has changed: look at this again"
PYTHON
