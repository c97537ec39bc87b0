"""Work that survives a kill: a folder of finished stages and a manifest that is replaced atomically."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import EdgequantError


class Work:
    """Finished stages of one plan, on disk. A stage is recorded only after its files are safe."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self.stages: dict[str, dict[str, Any]] = {}

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    def done(self, stage: str) -> bool:
        """Whether the stage was finished, in this run or in an earlier one."""
        return stage in self.stages

    def finish(self, stage: str, **info: Any) -> None:
        """Record a stage with what later stages and the report need of it (JSON values)."""
        self.stages[stage] = info
        text = json.dumps({"key": self.key, "stages": self.stages})
        replace(self.manifest, text.encode())

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under a name, complete or not at all."""
        temp = self.folder / f"{name}.tmp"
        temp.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temp.replace(self.folder / f"{name}.npz")

    def load(self, name: str, key: str) -> np.ndarray:
        """One array of a stored set, read from disk."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return np.asarray(arrays[key])

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Store one large array, complete or not at all."""
        temp = self.folder / f"{name}.tmp"
        temp.parent.mkdir(parents=True, exist_ok=True)
        with temp.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(self.folder / f"{name}.npy")

    def open_array(self, name: str) -> np.ndarray:
        """A large array as a memory map."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def drop(self, file: str) -> None:
        """Forget a stored file that no later stage needs."""
        (self.folder / file).unlink(missing_ok=True)


def replace(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old one or the new one, never half."""
    temp = path.with_name(path.name + ".tmp")
    with temp.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temp.replace(path)


@contextmanager
def work_folder(output: Path, key: str) -> Iterator[tuple[Work, str]]:
    """The work of this plan under `output`, and a sentence about what was found there.

    The folder stays when the body fails, so that the same command goes on later, and is removed when it ends
    well. Raises EdgequantError when `output` cannot be written or another process works in it.
    """
    folder = output / ".edgequant"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise EdgequantError(
            f"cannot write in {output} ({error.strerror}); choose another folder with -o."
        ) from error
    with lock:
        _lock(lock.fileno(), output)
        work = Work(folder, key)
        yield work, _continue(work)
        shutil.rmtree(folder)


def _lock(descriptor: int, output: Path) -> None:
    """Hold the folder for this process; the system lets go when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one folder are not told apart
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise EdgequantError(
            f"another run is working in {output}; wait for it, or choose another folder with -o."
        ) from None


def _continue(work: Work) -> str:
    """Take over the stages of an earlier run of the same plan, or clear those of another."""
    if not work.manifest.exists():
        return ""
    found = json.loads(work.manifest.read_text())
    if found["key"] == work.key:
        work.stages = found["stages"]
        return f"continuing after {len(work.stages)} finished stages"
    for item in work.folder.iterdir():
        if item.name != "lock":
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    return "the plan, the model or the program changed since the unfinished run here: starting afresh"
