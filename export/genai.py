"""What onnxruntime-genai reads beside the model: genai_config.json and the source's own files."""

import json
from pathlib import Path
from typing import Any

from runtime.archs import Arch
from runtime.errors import InputError
from runtime.tokenizer import Tokenizer, read_json

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
)
"""Files of the checkpoint that go along unchanged, where they exist."""

LONGEST_CONTEXT = 131_072
"""Positions a file has cos and sin for, at most: 64 MiB with heads of 128, mapped and not loaded.

Models made for a million tokens are cut to this; genai_config.json's `context_length` says so.
"""

MAX_LENGTH = 4096
"""Tokens of prompt and answer together that genai makes room for, unless the caller asks for more.

It fills a whole float32 cache of `max_length` with zeros before the first token: 128k tokens of a
1B Llama would take 8.6 GB. Callers raise it up to `context_length` with set_search_options.
"""

SEARCH: dict[str, Any] = {
    "do_sample": False,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
"""How to sample where generation_config.json does not say."""


def context_length(arch: Arch) -> int:
    """Longest context the written file runs, in tokens."""
    return min(arch.context, LONGEST_CONTEXT)


def copied_files(source: Path) -> list[Path]:
    """The tokenizer, the settings and the licence, which go along byte for byte."""
    return [source / name for name in COPIED if (source / name).exists()]


def genai_config(arch: Arch, source: Path) -> dict[str, Any]:
    """genai_config.json. Raises EdgequantError when the source has no config.json or tokenizer."""
    tokenizer = Tokenizer.from_folder(source)
    settings = read_json(source / "config.json")
    if not settings:
        raise InputError(
            f"{source} has no config.json; give the folder of the original checkpoint."
        )
    settings |= read_json(source / "generation_config.json")
    eos = list(tokenizer.eos)
    model = {
        "type": arch.family,
        "vocab_size": arch.vocab,
        "context_length": context_length(arch),
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        "pad_token_id": _first(settings.get("pad_token_id"), *reversed(eos)),
        "bos_token_id": _first(settings.get("bos_token_id"), tokenizer.bos, *reversed(eos)),
        "decoder": _decoder(arch),
    }
    # a null in generation_config.json means the default; genai refuses to read one
    found = {key: settings[key] for key in SEARCH if settings.get(key) is not None}
    search = SEARCH | found | {"past_present_share_buffer": True}
    search["max_length"] = min(context_length(arch), MAX_LENGTH)
    return {"model": model, "search": search}


def text(config: dict[str, Any]) -> str:
    """A config as the JSON text that is written."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _decoder(arch: Arch) -> dict[str, Any]:
    return {
        "filename": "model.onnx",
        "head_size": arch.head_dim,
        "hidden_size": arch.hidden,
        "num_attention_heads": arch.heads,
        "num_hidden_layers": arch.layers,
        "num_key_value_heads": arch.kv_heads,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def _first(*candidates: int | list[int] | None) -> int:
    """The first id there is; 0 where a model names none at all (genai insists on a number)."""
    for found in candidates:
        if isinstance(found, int):
            return found
    return 0
