"""The tokens that stand around an image and in place of it, as config.json names them."""

import json
from typing import Any

from runtime.errors import CorruptFileError

IDS = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
"""Keys of config.json: the tokens before an image, for each of its embeddings, and after it."""


def image_ids(config: dict[str, Any], vocab: int) -> tuple[int, int, int] | None:
    """The ids of IDS; None where config.json lacks one.

    Raises CorruptFileError for one that is no token of a vocabulary of `vocab`.
    """
    found = [checked_id(key, config[key], vocab) for key in IDS if key in config]
    return (found[0], found[1], found[2]) if len(found) == len(IDS) else None


def checked_id(key: str, value: Any, vocab: int) -> int:
    """A token that config.json names. Raises CorruptFileError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab:
        raise CorruptFileError(
            f"{key} of config.json is {json.dumps(value)}, and a token from 0 to {vocab - 1} is "
            "needed; correct it, or take the file that came with the weights."
        )
    return value
