#!/usr/bin/env bash
# transformers 5.23: where config.json says model_type "qwen2", AutoTokenizer takes only vocabulary and
# merges from tokenizer.json. Its normalizer and its pre-tokenizer are replaced by those of
# Qwen2Tokenizer (NFC, digits one by one), even where tokenizer_config.json asks for
# "TokenizersBackend", the class that reads tokenizer.json as it is. A Qwen2 with a tokenizer of its
# own, such as one distilled without NFC, gets other ids than the same file gives in a "llama" folder.
# Seen: "llama as the file says: True", "qwen2 as the file says: False". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$folder"
./venv/bin/python - <<'PYTHON'
import json
import os

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

backend = Tokenizer(models.BPE())
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trainer = trainers.BpeTrainer(
    vocab_size=300,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    special_tokens=["<|endoftext|>"],
    show_progress=False,
)
backend.train_from_iterator(["in 2024 and 2025 and 2026"] * 9, trainer)
text = "2024 e\u0301"
expected = backend.encode(text).ids


def ids(kind):
    os.makedirs(kind, exist_ok=True)
    backend.save(f"{kind}/tokenizer.json")
    with open(f"{kind}/config.json", "w") as file:
        json.dump({"model_type": kind}, file)
    with open(f"{kind}/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": "TokenizersBackend"}, file)
    found = AutoTokenizer.from_pretrained(kind)
    print(type(found).__name__, found.encode(text, add_special_tokens=False))
    return found.encode(text, add_special_tokens=False)


print("file", expected)
kept, replaced = ids("llama") == expected, ids("qwen2") == expected
print("llama as the file says:", kept)
print("qwen2 as the file says:", replaced)
assert kept and not replaced
PYTHON
