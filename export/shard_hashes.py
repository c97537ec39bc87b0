"""The hashes in a folder of safetensors files, among the metadata of the first one.

edgequant.sha256.arrays     of type, shape and bytes of each array: lines of hash and name
edgequant.sha256.files      of each file beside the weights, likewise
edgequant.sha256.metadata   of the other metadata
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from export.hashes import DIGITS, changed, digest, file_digest, no_hashes
from export.stated import json_or_bytes
from runtime.json_files import read_json
from runtime.memory import drop_pages
from runtime.safetensors_file import header, read
from runtime.sources import INDEX, WEIGHTS

HASHES = "edgequant.sha256."
ARRAYS, FILES, METADATA = f"{HASHES}arrays", f"{HASHES}files", f"{HASHES}metadata"
FILES_ROOM = 4096
"""Bytes of a header that hold the hashes of all small files, and those of the metadata."""


def hash_room(name: str) -> int:
    """Bytes of a header that the hash of an array takes."""
    return len(json.dumps(name)) + DIGITS + 4


def array_digest(dtype: str, shape: tuple[int, ...], data: memoryview) -> str:
    """The hash of an array."""
    return digest(f"{dtype} {list(shape)}".encode(), data)


def sealed(
    metadata: Mapping[str, str], arrays: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, str]:
    """Metadata with all hashes."""
    told = {ARRAYS: listed(arrays), FILES: listed(files), METADATA: metadata_digest(metadata)}
    return dict(metadata) | told


def metadata_digest(metadata: Mapping[str, str]) -> str:
    """The hash of all that is neither a hash nor the library's own word."""
    kept = {k: v for k, v in metadata.items() if k != "format" and not k.startswith(HASHES)}
    return digest(json.dumps(kept, sort_keys=True).encode())


def listed(hashes: Mapping[str, str]) -> str:
    """A line for each."""
    return "\n".join(f"{hashed} {name}" for name, hashed in hashes.items())


def unlisted(text: str) -> dict[str, str]:
    """What `listed` made of it."""
    lines = (line.partition(" ") for line in text.split("\n") if line)
    return {name: hashed for hashed, _, name in lines}


def noted(folder: Path) -> dict[str, str]:
    """The metadata of the first file, as texts."""
    first = folder / WEIGHTS
    if not first.exists():
        first = folder / min(read_json(folder / INDEX)["weight_map"].values())
    found = json_or_bytes(header(first) or b"{}")
    own = found.get("__metadata__") if isinstance(found, dict) else None
    return {key: str(value) for key, value in own.items()} if isinstance(own, dict) else {}


def verify(folder: Path) -> list[str]:
    """What of a folder changed since it was written: a sentence each.

    Raises EdgequantError for one that cannot be read, or holds no hashes.
    """
    written = noted(folder)
    if not {ARRAYS, FILES, METADATA} <= written.keys():
        raise no_hashes(folder)
    shards = sorted(folder.glob("*.safetensors"))
    found = {}
    for shard in shards:
        for name, stored in read(shard).items():
            data = stored.read()
            found[name] = array_digest(stored.dtype, stored.shape, np.ascontiguousarray(data).data)
            drop_pages([data])
    told = changed("array", found, unlisted(written[ARRAYS]))
    if metadata_digest(written) != written[METADATA]:
        told.append("its metadata are not what was written")
    others = (path for path in folder.iterdir() if path not in shards)
    files = {path.name: file_digest(path) if path.is_file() else "" for path in others}
    return told + changed("file", files, unlisted(written[FILES]))
