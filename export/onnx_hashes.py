"""The hashes in an ONNX folder, among the metadata of model.onnx.

sha256.arrays   JSON: of each array of the data file, by its name
sha256.files    JSON: of each other file
sha256.graph    of model.onnx without these three
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from export.genai import left_out
from export.hashes import changed, digest, file_digest, filled_gaps, mapped_digest, no_hashes
from export.onnx_data import DATA
from export.stated import json_or_bytes
from runtime.json_files import checked
from runtime.onnx_file import EMBEDDING_MODEL, MODEL, load_graph, stored_arrays
from runtime.stored import MappedFile

HASHES = "sha256."
ARRAYS, FILES, GRAPH = f"{HASHES}arrays", f"{HASHES}files", f"{HASHES}graph"


def seal(
    models: Mapping[str, onnx.ModelProto], sums: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, bytes]:
    """The graphs as they are stored, the first with hashes of arrays, of other files, and of all.

    `files` are the hashes of those that are no graph over the data file.
    """
    stored = {name: serialized(model) for name, model in models.items()}
    whole = models[MODEL]
    hashes = {
        ARRAYS: json.dumps(dict(sums), sort_keys=True),
        FILES: json.dumps(
            {**files, **{name: digest(stored[name]) for name in stored if name != MODEL}},
            sort_keys=True,
        ),
        GRAPH: digest(stored[MODEL]),
    }
    for key in sorted(hashes):
        whole.metadata_props.add(key=key, value=hashes[key])
    return stored | {MODEL: serialized(whole)}


def serialized(model: onnx.ModelProto) -> bytes:
    """The same bytes for the same graph."""
    return bytes(model.SerializeToString(deterministic=True))


def verify(folder: Path) -> list[str]:
    """What of a folder changed since it was written: a sentence each.

    Raises EdgequantError for one that cannot be read, or holds no hashes.
    """
    model = load_graph(folder)
    written = {entry.key: entry.value for entry in model.metadata_props}
    if not {ARRAYS, FILES, GRAPH} <= written.keys():
        raise no_hashes(folder)
    kept = [entry for entry in model.metadata_props if entry.key not in (ARRAYS, FILES, GRAPH)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    told = (
        [] if digest(serialized(model)) == written[GRAPH] else [f"{MODEL} is not what was written"]
    )
    models = [model, *(load_graph(folder, n) for n in (EMBEDDING_MODEL,) if (folder / n).exists())]
    arrays = {name: a for one in models for name, a in stored_arrays(folder, one).items()}
    found = {name: mapped_digest(array.read()) for name, array in arrays.items()}
    told += changed("array", found, table(folder, ARRAYS, written[ARRAYS]))
    others = (p for p in folder.iterdir() if p.name not in (MODEL, DATA))
    files = {path.name: file_digest(path) if path.is_file() else "" for path in others}
    due = table(folder, FILES, written[FILES])
    needed = {name: hashed for name, hashed in due.items() if name not in left_out(folder)}
    told += changed("file", files, needed)
    places = [(array.start, array.start + array.nbytes) for array in arrays.values()]
    end, size = max((stop for _, stop in places), default=0), (folder / DATA).stat().st_size
    whole = MappedFile(folder / DATA).view(0, size) if size else np.zeros(0, np.uint8)
    told += [f"{DATA}: {line}" for line in filled_gaps(whole, places)]
    return told + [f"{size - end:,} bytes of {DATA} follow the last array"] * (size > end)


def table(folder: Path, key: str, text: str) -> dict[str, str]:
    """Hashes by their names. Raises CorruptFileError where they are none."""
    where = f"{key} in {folder / MODEL}"
    return checked(json_or_bytes(text.encode()), dict[str, str], where, "copy the folder again")


def stored_places(model: onnx.ModelProto) -> Iterator[tuple[str, int, int]]:
    """Name, start and bytes of each array in the data file."""
    for proto in model.graph.initializer:
        if proto.data_location == TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in proto.external_data}
            yield proto.name, int(where.get("offset", 0)), int(where.get("length", 0))
