"""What onnxruntime-genai reads beside the model: genai_config.json and the source's own files."""

import json
from pathlib import Path
from typing import Any

from export import genai_vision
from export.sight import Sight
from runtime import generation_config
from runtime.added_tokens import TOKENIZER_FILES
from runtime.archs import FAMILIES, Arch, family_of
from runtime.config_file import read_config
from runtime.errors import InputError
from runtime.json_files import read_json
from runtime.tokenizer import Tokenizer

COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES, "LICENSE")
"""Files of the checkpoint that go along, where they exist."""

UNREAD = ("config.json", "generation_config.json")
"""What onnxruntime-genai does not read: a folder for it alone may be without both."""

LONGEST_CONTEXT = 131_072
"""Positions a file has cos and sin for, at most: 64 MiB with heads of 128, mapped and not loaded.

Models made for a million tokens are cut to this; genai_config.json's `context_length` says so.
"""

MAX_LENGTH = 4096
"""Tokens of prompt and answer together that genai makes room for, unless the caller asks for more.

It fills a whole float32 cache of `max_length` with zeros before the first token: 128k tokens of a
1B Llama would take 8.6 GB. Callers raise it up to `context_length` with set_search_options.
"""


def left_out(folder: Path) -> tuple[str, ...]:
    """The files that a folder for onnxruntime-genai alone is without; none of another one."""
    return () if any((folder / name).exists() for name in UNREAD) else UNREAD


def context_length(arch: Arch) -> int:
    """Longest context the written file runs, in tokens."""
    return min(arch.context, LONGEST_CONTEXT)


def small_files(arch: Arch, source: Path, sight: Sight | None = None) -> dict[str, bytes]:
    """Every file of a folder beside the graph and its weights: name -> bytes.

    onnxruntime-genai runs no model that scores texts: of it there is no genai_config.json.
    Raises EdgequantError when the source has no config.json or tokenizer.
    """
    tokenizer = Tokenizer.from_folder(source)
    config = genai_config(arch, source, tokenizer, sight)
    files = copied_files(source, arch, tokenizer)
    if arch.score_head:
        return files
    files["genai_config.json"] = _sorted(config)
    if sight:
        files |= genai_vision.preparation_files(source)
        files[genai_vision.PROCESSOR] = _sorted(genai_vision.processor(sight))
    return files


def copied_files(source: Path, arch: Arch, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The tokenizer, the settings and the licence: name -> bytes, those of the source.

    Three may differ from it. config.json says whether the head is tied in this model;
    tokenizer.json has the tokens that other files add, since genai reads no other; of several chat
    templates tokenizer_config.json keeps the usual one, since genai opens no list of them.
    """
    files = {name: (source / name).read_bytes() for name in COPIED if (source / name).exists()}
    config = read_config(source)
    if config and family_of(config).arch(config).tied != arch.tied:
        files["config.json"] = json_bytes(config | {"tie_word_embeddings": arch.tied})
    if tokenizer.added:
        files["tokenizer.json"] = tokenizer.backend.to_str(pretty=True).encode("utf-8")
    settings = read_json(source / "tokenizer_config.json")
    if isinstance(settings.get("chat_template"), list | dict):
        files["tokenizer_config.json"] = json_bytes(
            settings | {"chat_template": tokenizer.chat_template}
        )
    return files


def _sorted(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode("utf-8")


def json_bytes(value: dict[str, Any]) -> bytes:
    """A JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def genai_config(
    arch: Arch, source: Path, tokenizer: Tokenizer, sight: Sight | None = None
) -> dict[str, Any]:
    """genai_config.json."""
    settings = read_config(source)
    if not settings:
        raise InputError(
            f"{source} has no config.json; give the folder of the original checkpoint."
        )
    settings |= read_json(source / "generation_config.json")
    eos, family = list(tokenizer.eos), FAMILIES[arch.family]
    model = {
        "type": (family.genai_sees if sight else family.genai_type) or arch.family,
        "vocab_size": arch.vocab,
        "context_length": context_length(arch),
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        "pad_token_id": _first(settings.get("pad_token_id"), *reversed(eos)),
        "bos_token_id": _first(settings.get("bos_token_id"), tokenizer.bos, *reversed(eos)),
        "decoder": _decoder(arch, sight),
    }
    if sight:
        model |= genai_vision.sections(sight, source, arch.vocab)
    return {"model": model, "search": _search(arch, source)}


def _search(arch: Arch, source: Path) -> dict[str, Any]:
    """How genai draws tokens: as the source's makers want it, as far as it can."""
    search = generation_config.sampling(source)
    if search["do_sample"]:
        search["num_beams"] = 1  # it draws no beams
    del search["min_p"]
    return search | {
        "top_k": min(search["top_k"], arch.vocab),  # it refuses more
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "max_length": min(context_length(arch), MAX_LENGTH),
    }


def _decoder(arch: Arch, sight: Sight | None) -> dict[str, Any]:
    reads = genai_vision.decoder_inputs() if sight else {"input_ids": "input_ids"}
    return {
        "filename": "model.onnx",
        "head_size": arch.head_dim,
        "hidden_size": arch.hidden,
        "num_attention_heads": arch.heads,
        "num_hidden_layers": arch.layers,
        "num_key_value_heads": arch.kv_heads,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "inputs": {
            **reads,
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
