"""Every format that is read, and which of them a path holds."""

from pathlib import Path

from runtime import checkpoint, gguf_file, onnx_file, packed_folders
from runtime.errors import InputError
from runtime.links import check_kind, check_links, check_name
from runtime.reader import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        gguf_file.READER,
        onnx_file.READER,
        packed_folders.GPTQ,
        packed_folders.AWQ,
        checkpoint.READER,
    )
}
"""Readers by name, in the order in which they are asked: an ONNX folder has a config.json, too."""


def recognise(path: Path) -> Reader:
    """The reader of what a path holds. Raises EdgequantError for nothing, or nothing known."""
    *others, last = (reader.described for reader in READERS.values())
    ways = f"{', '.join(others)} or {last}"
    if not path.exists():
        raise InputError(f"{path} does not exist; give {ways}.")
    check_kind(path)
    check_name(path)
    for reader in READERS.values():
        if reader.recognises(path):
            return reader
    if path.is_file():
        kinds = (f"a {reader.name.upper()} file" for reader in READERS.values() if reader.is_file)
        raise InputError(f"{path} is not {' or '.join(kinds)}; give {ways}.")
    check_links(path)
    signs = dict.fromkeys(reader.sign for reader in READERS.values() if not reader.is_file)
    raise InputError(f"{path} has no {' and no '.join(signs)}; give {ways}.")
