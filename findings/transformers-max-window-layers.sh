#!/usr/bin/env bash
# transformers 5.23: with `use_sliding_window` the same keys of config.json give the window to other
# layers in every family of Qwen. `max_window_layers` 2 of 4 layers leaves the first two without one in
# qwen2 and qwen3; in qwen2_moe it is the other way round, every second layer before the third has it
# and none after; qwen3_moe does not look at it, and reads no layer_types at all.
# Seen: "qwen2 [2, 3]", "qwen3 [2, 3]", "qwen2_moe [0]", "qwen3_moe: no layer_types". Fails when that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$folder"
./venv/bin/python - <<'PYTHON'
from transformers import AutoConfig

keys = {
    "num_hidden_layers": 4,
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 2,
}
found = {}
for family in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"):
    config = AutoConfig.for_model(family, **keys)
    kinds = getattr(config, "layer_types", None)
    found[family] = kinds and [i for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    print(f"{family} {found[family]}" if kinds else f"{family}: no layer_types")
assert found == {"qwen2": [2, 3], "qwen3": [2, 3], "qwen2_moe": [0], "qwen3_moe": None}
PYTHON
