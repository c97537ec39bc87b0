#!/usr/bin/env bash
# transformers 5.23: a config.json that was saved by transformers 5 keeps the base of the rope
# frequencies inside `rope_parameters`. When a `rope_scaling` block is pasted beside it, as the model
# card of Qwen2.5 says for long contexts, the whole `rope_parameters` is dropped and the base with it:
# the model runs with rope_theta 10,000 in place of 1,000,000, without a warning.
# Seen: "alone 1000000.0", "beside rope_scaling 10000.0 yarn". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$folder"
./venv/bin/python - <<'PYTHON'
import json
import os

from transformers import AutoConfig

config = {
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def rope(more):
    os.makedirs("model", exist_ok=True)
    with open("model/config.json", "w") as file:
        json.dump(config | more, file)
    return AutoConfig.from_pretrained("model").rope_parameters


alone, beside = rope({}), rope({"rope_scaling": yarn})
print("alone", alone["rope_theta"])
print("beside rope_scaling", beside["rope_theta"], beside["rope_type"])
assert alone["rope_theta"] == 1000000.0
assert (beside["rope_theta"], beside["rope_type"]) == (10000.0, "yarn")
PYTHON
