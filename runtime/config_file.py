"""config.json as that of a language model, also where it describes a larger model around one."""

from pathlib import Path
from typing import Any

import msgspec

from runtime.json_files import Config, SpecialIds, read_json
from runtime.vision.ids import IDS

TEXT = "text_config"
TIED = "tie_word_embeddings"
SPECIAL = {part.name for part in msgspec.structs.fields(SpecialIds)}
FIRST = {"model_type", "architectures", *SPECIAL, *IDS}
"""Settings that count where they stand beside a `text_config`, whatever that says of them."""
OUTER = FIRST | {TIED, "tokenizer_class", "quantization_config", TEXT}
"""Settings that count where they stand beside a `text_config`."""
INNER = {part.name for part in msgspec.structs.fields(Config)} - OUTER
"""Settings of the language model, which do not count there."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, {} without one, with the language model's settings on top.

    Raises CorruptFileError as `read_json` does.
    """
    return language_config(read_json(folder / "config.json"))


def language_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with what its `text_config` says in place of what stands beside that.

    As in transformers, the head is tied where either says so.
    """
    text = config.get(TEXT)
    if text is None:
        return config
    outer = {key: value for key, value in config.items() if key not in INNER}
    named = {key: outer[key] for key in FIRST if outer.get(key) is not None}
    said = [part[TIED] for part in (config, text) if part.get(TIED) is not None]
    return outer | text | named | ({TIED: any(said)} if said else {})


def config_notes(config: dict[str, Any]) -> list[str]:
    """A sentence where settings beside `text_config` say otherwise than it does."""
    text = config.get(TEXT)
    beside = INNER & config.keys() if text is not None else set()
    other = sorted(key for key in beside if config[key] != (text or {}).get(key))
    if not other:
        return []
    return [f"config.json has {', '.join(other)} beside its {TEXT}, which counts, as transformers"]
