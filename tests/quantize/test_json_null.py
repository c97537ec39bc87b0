"""A key that is null in a file of a checkpoint is as if it were not there, or is named."""

import json
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from export.gguf_vocab import vocabulary
from quantize.checkpoint import open_checkpoint
from runtime.errors import EdgequantError
from runtime.json_files import FILES
from tests.quantize.inputs import edit

READ = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def nullable(kind: Any) -> list[str]:
    """Names of fields that may be null."""
    hints = get_type_hints(kind)
    unions = {name for name, hint in hints.items() if get_origin(hint) in (Union, types.UnionType)}
    return sorted(name for name in unions if type(None) in get_args(hints[name]))


CASES = [(file, key) for file in READ for key in nullable(FILES[file])]


def found(folder: Path) -> Any:
    """What is read of a folder, or the sentence of its refusal."""
    try:
        read = open_checkpoint(folder)
        return read.arch, read.notes, read.tokenizer.eos, vocabulary(folder, read.arch.vocab)
    except EdgequantError as error:
        return str(error)


@pytest.mark.parametrize(("file", "key"), CASES)
def test_null_is_as_missing_or_refused(file: str, key: str, folder: Path) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    values.pop(key, None)
    path.write_text(json.dumps(values))
    expected = found(folder)
    edit(folder, file, **{key: None})
    read = found(folder)
    assert read == expected or (isinstance(read, str) and f"{key} None" in read)


def test_there_are_such_keys() -> None:
    assert ("tokenizer_config.json", "added_tokens_decoder") in CASES
    assert all(issubclass(FILES[file], msgspec.Struct) for file in READ)
