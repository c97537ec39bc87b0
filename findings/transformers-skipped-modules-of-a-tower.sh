#!/usr/bin/env bash
# transformers 5.23: names of modules that are to stay in floats (llm_int8_skip_modules of
# bitsandbytes, modules_to_not_convert of AWQ and FP8) are looked for at the start or the end of a
# module's name, no longer anywhere in it. The vision tower of a Qwen2.5-VL is called "visual" in its
# checkpoint, in the names of its weights, and by vLLM, but "model.visual" once transformers has it:
# "visual" protects nothing there, and the tower is quantized without a word.
# Seen: "visual: 12 linears of the tower quantized; model.visual: 0". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.23.0 torch==2.13.0 accelerate==1.15.0 bitsandbytes==0.49.2
cd "$folder"
./venv/bin/python - <<'PYTHON'
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

text = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
tower = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
ids = {f"{name}_token_id": at for at, name in enumerate(("image", "video", "vision_start"))}
config = Qwen2_5_VLConfig(
    text_config=text | heads | {"rope_parameters": rope},
    vision_config=tower | {"out_hidden_size": 64},
    **ids,
)
Qwen2_5_VLForConditionalGeneration(config).save_pretrained("model")


def quantized(skipped):
    settings = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=[skipped, "lm_head"])
    model = AutoModelForImageTextToText.from_pretrained(
        "model", quantization_config=settings, device_map="cpu", dtype=torch.float32
    )
    kinds = {name: type(part).__name__ for name, part in model.named_modules()}
    return sum("visual" in name and kind == "Linear4bit" for name, kind in kinds.items())


plain, whole = quantized("visual"), quantized("model.visual")
print(f"visual: {plain} linears of the tower quantized; model.visual: {whole}")
raise SystemExit((plain, whole) != (12, 0))
PYTHON
