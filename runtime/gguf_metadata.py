"""What the values of a GGUF's keys must be, looked at before any is used; sizes: gguf_keys.py."""

import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import CorruptFileError
from runtime.gguf_keys import SHORT, plain


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list)  # other arrays are numpy's


def _switch(value: Any) -> bool:
    return isinstance(value, int)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"


NEEDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "general.type": (_text, "a text"),
    "general.architecture": (_text, "a text"),
    "general.license": (_text, "a text"),
    "general.sampling.*": (_number, "a number"),
    "tokenizer.ggml.model": (_text, "a text"),
    "tokenizer.ggml.pre": (_text, "a text"),
    "tokenizer.chat_template": (_text, "a text"),
    "tokenizer.chat_template.*": (_text, "a text"),
    "tokenizer.ggml.*_token_id": (_whole, "a whole number"),
    "tokenizer.ggml.add_*": (_switch, "true or false"),
    "imatrix.datasets": (_texts, "a list of texts"),
    "imatrix.chunk_*": (_whole, "a whole number"),
    "edgequant.eos_token_ids": (_whole_numbers, "a list of whole numbers"),
    "*.pooling_type": (_whole, "a whole number"),
    "*.rope.*_base*": (_number, "a number"),
}
"""Key, or what it looks like -> whether a value fits, and what is needed."""


def check_kinds(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise CorruptFileError for the first value of another kind than its key has."""
    for key, value in metadata.items():
        for pattern, (fits, need) in NEEDED.items():
            if fnmatch.fnmatchcase(key, pattern) and not fits(value):
                raise CorruptFileError(
                    f"{key} in {path} is {SHORT.repr(plain(value))}, but {need} is needed; convert "
                    "the model again."
                )
