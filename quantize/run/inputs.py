"""The files that a run reads, byte for byte: work of a killed run goes on with equal ones alone."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantize.progress import Progress, silent
from runtime.adapter import CONFIG as ADAPTER_CONFIG
from runtime.adapter_files import OTHERS, TEMPLATES
from runtime.added_tokens import TOKENIZER_FILES
from runtime.checkpoint import Checkpoint
from runtime.errors import InputError
from runtime.gguf_parts import part_paths
from runtime.pooling import MODULES, pooling_file
from runtime.quantized.base import BESIDE
from runtime.sources import CONFIG, INDEX

SMALL = (CONFIG, INDEX, ADAPTER_CONFIG, BESIDE, MODULES, *TOKENIZER_FILES, *OTHERS)
"""Files beside the weights of which something is read."""
PIECE = 1 << 22
"""Bytes that a thread reads at a time."""
THREADS = 4
TOLD = 1 << 28
"""Bytes between two lines of progress."""

State = tuple[int, ...]
"""What changes with a file: its size, times and inode. Nobody can set the second time."""


class Inputs:
    """The files of a checkpoint and its adapters, as they were when it was opened.

    The fingerprint of a checkpoint samples its weights, which is enough to name it. One array more
    or less of a merge, or another chat template, would pass it.
    """

    def __init__(self, checkpoint: Checkpoint, progress: Progress = silent) -> None:
        self.checkpoint, self.progress = checkpoint, progress
        self.states = {name: state(path) for name, path in files_of(checkpoint).items()}
        self.known: dict[str, str] = {}

    def digests(self) -> Mapping[str, str]:
        """File -> what its bytes hash to. Reads each of them whole, some hundred MB in a second.

        Raises InputError where one changed since the checkpoint was opened.
        """
        if not self.known:
            files = files_of(self.checkpoint)
            found = hashes(files, self.progress)
            self._refuse(name for name in files if state(files[name]) != self.states.get(name))
            self._refuse(self.states.keys() - files.keys())
            self.known = found
        return self.known

    def refuse_changed(self) -> None:
        """Raise InputError where a file is another one than at the start of the run.

        One whose times alone changed is read once more.
        """
        files = files_of(self.checkpoint)
        self._refuse(self.states.keys() ^ files.keys())
        now = {name: state(path) for name, path in files.items()}
        touched = {name: path for name, path in files.items() if now[name] != self.states[name]}
        found = hashes(touched, silent)
        self._refuse(name for name in touched if found[name] != self.known.get(name))
        self.states = now

    def _refuse(self, names: Iterator[str] | set[str]) -> None:
        if changed := sorted(names):
            raise InputError(
                f"{', '.join(changed[:3])} of {self.checkpoint.name} changed while the run was "
                "reading it, so what was computed belongs to no checkpoint; run the same command "
                "again when nobody writes there: it starts afresh."
            )


def files_of(checkpoint: Checkpoint) -> dict[str, Path]:
    """Every file that a run reads of a checkpoint and its adapters, by its path in there."""
    place = checkpoint.folder
    arrays = (*checkpoint.tensors.arrays.values(), *checkpoint.beside.values())
    paths = {part.file.path for array in arrays for part in array.sources}
    folders = {"": place, **{f"{one.name}/": one.folder for one in checkpoint.adapters}}
    if place.is_file():
        paths |= set(part_paths(place))
        folders[""] = place.parent
    else:
        for folder in folders.values():
            paths |= set(small_files(folder))
    return {
        prefix + path.relative_to(folder).as_posix(): path
        for path in sorted(paths)
        for prefix, folder in folders.items()
        if path.is_relative_to(folder)
    }


def small_files(folder: Path) -> Iterator[Path]:
    """What a folder holds of SMALL, further chat templates and settings of pooling."""
    yield from (folder / name for name in SMALL if (folder / name).is_file())
    yield from (folder / TEMPLATES).glob("*.jinja")
    if pooling := pooling_file(folder):
        yield folder / pooling


def state(path: Path) -> State:
    """See `State`; of a file that is gone, nothing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def hashes(files: Mapping[str, Path], progress: Progress) -> dict[str, str]:
    """sha256 over the sha256 of each piece of a file, so that threads share a large one."""
    pieces = [
        (name, path, start)
        for name, path in files.items()
        for start in range(0, max(1, path.stat().st_size), PIECE)
    ]
    found = {name: hashlib.sha256() for name in files}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        each = pool.map(lambda piece: _hash(piece[1], piece[2]), pieces)
        for done, (piece, digest) in enumerate(zip(pieces, each, strict=True), 1):
            found[piece[0]].update(digest)
            if done == len(pieces) or done * PIECE % TOLD == 0:
                progress("reading the checkpoint", done, len(pieces), "")
    return {name: digest.hexdigest() for name, digest in found.items()}


def _hash(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(PIECE)).digest()
