"""The hashes in a GGUF file.

edgequant.sha256.tensors    of the bytes of each tensor, in the order of the table
edgequant.sha256.header     of all that stands before the data, its own digits taken as zeros
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from export.gguf_general import HASHES, maker
from export.hashes import DIGITS, NONE, changed, digest, filled_gaps, mapped_digest, no_hashes
from runtime.gguf_file import read
from runtime.gguf_parts import read_parts

TENSORS = f"{HASHES}tensors"
HEADER = f"{HASHES}header"
LENGTHS = 12
"""Bytes between a key and its text: type and length."""


def room(tensors: int) -> dict[str, str]:
    """Both keys before the hashes are known; they are the last ones of the metadata."""
    return {TENSORS: NONE * tensors, HEADER: NONE}


def seal(file: BinaryIO, table_at: int, data_at: int, hashes: list[str]) -> None:
    """Write the hashes of tensors, and that of the header, into a file whose table is complete."""
    last = 8 + len(HEADER) + LENGTHS + DIGITS
    file.seek(table_at - last - DIGITS * len(hashes))
    file.write("".join(hashes).encode())
    file.seek(0)
    header = file.read(data_at)
    file.seek(table_at - DIGITS)
    file.write(digest(header).encode())


def verify(path: Path) -> list[str]:
    """What of a file changed since it was written: a sentence each.

    Raises EdgequantError for a file that cannot be read, or holds no hashes.
    """
    parts, file = read_parts(path), read(path)
    written = file.metadata.get(TENSORS)
    if not isinstance(written, str):
        raise no_hashes(path)
    if maker(path) != "edgequant":
        return ["another program quantized it, and kept the hashes of the file that it was made of"]
    told = []
    found = {name: mapped_digest(tensor.packed) for name, tensor in file.tensors.items()}
    pieces = [written[at : at + DIGITS] for at in range(0, len(written), DIGITS)]
    if len(pieces) == len(found):
        told += changed("tensor", found, dict(zip(found, pieces, strict=True)))
    else:
        told.append(f"it holds {len(found)} tensors, and was written with {len(pieces)}")
    if len(parts) == 1:
        header = bytes(parts[0].bytes[: parts[0].start])
        at = header.rfind(HEADER.encode()) + len(HEADER) + LENGTHS
        bare = header[:at] + NONE.encode() + header[at + DIGITS :]
        if digest(bare) != file.metadata.get(HEADER):
            told.append("its metadata, or its table of tensors, are not what was written")
        places = [(0, parts[0].start)]
        places += [(t.offset, t.offset + t.nbytes) for t in file.tensors.values()]
        told += filled_gaps(parts[0].bytes, places)
    end = max((t.offset + t.nbytes for t in file.tensors.values()), default=0)
    whole = -(-end // parts[0].alignment) * parts[0].alignment
    if len(parts) == 1 and len(parts[0].bytes) != whole:
        told.append(f"it has {len(parts[0].bytes):,} bytes, and its tensors end at {whole:,}")
    elif len(parts) == 1 and np.any(parts[0].bytes[end:]):
        told.append(f"bytes {end:,} to {whole:,} belong to nothing, and are not zeros")
    return told
