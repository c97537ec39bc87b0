#!/usr/bin/env bash
# tokenizers 0.23: a tokenizer.json says the id of each added token, and the library does not look at
# it. A token that the model's vocabulary does not hold gets the number of the vocabulary's words as
# its id, so an added token whose id lies in a hole of the vocabulary is read with another id, which
# may be that of a word: on loading, without an error. Holes are left by tools that prune a vocabulary
# or grow it behind its special tokens.
# Seen: the file says 2, the library 4, which "d" has as well. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import json

from tokenizers import Tokenizer

file = {
    "version": "1.0",
    "added_tokens": [
        {
            "id": 2,
            "content": "<end>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 3, "d": 4}, "merges": []},
}
tokenizer = Tokenizer.from_str(json.dumps(file))
print("the file says", file["added_tokens"][0]["id"], "the library", tokenizer.token_to_id("<end>"))
print("ids of a<end>d", tokenizer.encode("a<end>d").ids)
assert tokenizer.token_to_id("<end>") == tokenizer.token_to_id("d") == 4
assert tokenizer.encode("a<end>d").ids == [0, 4, 4]
PYTHON
