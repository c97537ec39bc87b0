"""What lies beside the weights in a checkpoint's folder, written anew from a GGUF's metadata.

config.json, tokenizer.json, tokenizer_config.json, generation_config.json, chat templates, and how
an embedding model pools: files as transformers writes them, so that whatever reads a checkpoint
reads them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.adapter_files import TEMPLATES, SmallFiles
from runtime.gguf_special import UNUSED
from runtime.gguf_vocab import pre_tokenizer
from runtime.json_files import GenerationConfig, checked
from runtime.pooling import MODE, MODULES, POOLINGS
from runtime.tokenizer import Tokenizer

SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""`general.sampling.*` -> its name in generation_config.json."""
NAMED = "tokenizer.chat_template."
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names of chat templates that become names of files."""
POOLING_TYPES = {1: "mean", 2: "cls", 3: "last"}
"""llama.cpp's numbers of what runtime/pooling.py names."""


def small_files(
    config: Mapping[str, Any], metadata: Mapping[str, Any], tokenizer: Tokenizer
) -> SmallFiles:
    """A folder with all of them, which lives as long as the object."""
    made = SmallFiles()
    ends, ids = list(tokenizer.eos), {}
    if ends:
        ids["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    if tokenizer.bos is not None:
        ids["bos_token_id"] = tokenizer.bos
    if isinstance(pad := metadata.get("tokenizer.ggml.padding_token_id"), int):
        ids |= {"pad_token_id": pad} if 0 <= pad < config["vocab_size"] else {}
    files = {
        "config.json": dict(config) | ids,
        "tokenizer.json": tokenizer_json(metadata, tokenizer),
        "tokenizer_config.json": _tokenizer_config(tokenizer, config["max_position_embeddings"]),
        "generation_config.json": ids | _sampling(metadata),
    }
    for name, value in files.items():
        _write(made.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    for name, template in _templates(metadata, tokenizer).items():
        _write(made.path / name, template)
    if licence := metadata.get("general.license"):
        _write(made.path / "README.md", f"---\nlicense: {json.dumps(licence)}\n---\n")
    for name, value in _pooling(metadata).items():
        _write(made.path / name, json.dumps(value))
    return made


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def tokenizer_json(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer with what is put around a text, and without rows that have no token."""
    settings = tokenizer.settings()
    types = metadata.get("tokenizer.ggml.token_type", ())
    empty = {f"[PAD{row}]" for row, kind in enumerate(types) if int(kind) == UNUSED}
    vocab = settings["model"]["vocab"]
    settings["model"]["vocab"] = {
        token: row for token, row in vocab.items() if token not in empty or token != f"[PAD{row}]"
    }
    if around := [*tokenizer.prefix, *tokenizer.suffix]:
        texts = {index: str(tokenizer.backend.id_to_token(index)) for index in around}
        before, after = (
            [{"SpecialToken": {"id": texts[index], "type_id": 0}} for index in ids]
            for ids in (tokenizer.prefix, tokenizer.suffix)
        )
        one, two = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
        settings["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*before, one, *after],
            "pair": [*before, one, *after, *before, two, *after],
            "special_tokens": {
                text: {"id": text, "ids": [index], "tokens": [text]}
                for index, text in texts.items()
            },
        }
    return settings


def _tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """Special tokens by name. One that is a word of texts, as llama.cpp's defaults may be, stays
    out: named, it would be cut out of every text."""
    added = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    named = {name: text for name, text in tokenizer.special.items() if text in added}
    usual = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    return named | usual | {"tokenizer_class": "PreTrainedTokenizerFast"}


def _templates(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """Chat templates by the files that transformers keeps them in."""
    found = {"chat_template.jinja": tokenizer.chat_template} if tokenizer.chat_template else {}
    more = {k.removeprefix(NAMED): v for k, v in metadata.items() if k.startswith(NAMED)}
    names = (name for name in more if PLAIN_NAME.fullmatch(name))
    return found | {f"{TEMPLATES}/{name}.jinja": more[name] for name in names}


def _sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How the model's makers want tokens drawn, where the file says so.

    Raises CorruptFileError for what nobody would draw with.
    """
    keys = {f"general.sampling.{key}": name for key, name in SAMPLING.items()}
    found = {name: metadata[key] for key, name in keys.items() if key in metadata}
    checked(found, GenerationConfig, "the GGUF's general.sampling", "convert the model again")
    return {"do_sample": True} | found if found else {}


def _pooling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How an embedding model makes one vector of a text."""
    key = f"{metadata.get('general.architecture')}.pooling_type"
    kind = POOLING_TYPES.get(metadata.get(key, 0))
    mode = next((mode for mode, name in POOLINGS.items() if name == kind), None)
    if mode is None:
        return {}
    return {
        MODULES: [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
        "1_Pooling/config.json": {f"{MODE}{mode}": True},
    }


def tokenizer_notes(metadata: Mapping[str, Any]) -> list[str]:
    """What the metadata does not say and is decided here."""
    notes = []
    if metadata.get("tokenizer.ggml.model") == "gpt2" and pre_tokenizer(metadata).nfc:
        notes.append(
            "a GGUF does not say that a tokenizer composes letters with their marks (NFC); it does "
            f"here, as models of the pre-tokenizer {metadata.get('tokenizer.ggml.pre')!r} were "
            "trained"
        )
    names = [key.removeprefix(NAMED) for key in metadata if key.startswith(NAMED)]
    if odd := [name for name in names if not PLAIN_NAME.fullmatch(name)]:
        notes.append(f"the chat template {odd[0]!r} is left out: its name is no name of a file")
    return notes
