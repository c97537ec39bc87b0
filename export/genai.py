"""What onnxruntime-genai reads beside the model: genai_config.json and the source's own files."""

import json
import shutil
from pathlib import Path
from typing import Any

from runtime.archs import Arch
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

SEARCH = {
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


def copy_files(source: Path, folder: Path) -> None:
    """The tokenizer, the settings and the licence, byte for byte."""
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def genai_config(arch: Arch, source: Path) -> dict[str, Any]:
    """genai_config.json. Raises EdgequantError when the source has no readable tokenizer."""
    tokenizer = Tokenizer.from_folder(source)
    settings = read_json(source / "config.json") | read_json(source / "generation_config.json")
    eos = list(tokenizer.eos)
    model = {
        "type": arch.family,
        "vocab_size": arch.vocab,
        "context_length": arch.context,
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        "pad_token_id": _first(settings.get("pad_token_id"), *reversed(eos)),
        "bos_token_id": _first(settings.get("bos_token_id"), tokenizer.bos, *reversed(eos)),
        "decoder": _decoder(arch),
    }
    search = {key: settings.get(key, default) for key, default in SEARCH.items()}
    search |= {"max_length": arch.context, "past_present_share_buffer": True}
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
