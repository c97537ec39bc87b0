"""Work that survives a kill: a folder of finished stages and a manifest replaced atomically."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from quantize.run.key import Key, differs, moved, told
from quantize.run.manifest import Manifest, read_manifest
from quantize.run.summed import Summed, is_sound
from runtime.errors import CorruptFileError, InputError, SpaceError
from runtime.memory import drop_pages

ENTRY = 1024
"""Bytes of a stored array beside its values: headers of zip and npy, its loss in the manifest."""
AFRESH = "since the unfinished run here: starting afresh"
DAMAGED = f"manifest.json was damaged or written by another version {AFRESH}"
ATTEMPTS = 100
"""Times that a lock is taken again, when its folder went away between two steps."""
OVER = "over"
"""The stage of a run that ended, which only its files are left of."""


class Work:
    """Finished stages of one plan, on disk. A stage is recorded only after its files are safe."""

    def __init__(
        self, folder: Path, key: Key, files: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self.folder, self.key, self.files = folder, key, files
        """`files` hashes those of the model, which takes its time: only under the lock."""
        self.whole_key = False
        self.stages: dict[str, dict[str, Any]] = {}
        self.left: Manifest | None = None
        """What an earlier run left."""
        self.sound = set[Path]()
        """Files whose checksum was found to be right."""
        self._read_manifest()

    def _read_manifest(self) -> None:
        """Take up the stages that an earlier run of the same plan finished."""
        self.left = read_manifest(self.manifest)
        self.stages = {} if self.left is None or self.foreign else self.left.stages

    @property
    def foreign(self) -> bool:
        """Whether the folder holds the unfinished work of another plan."""
        return self.left is not None and differs(self.left.key, self.key)

    def _complete_key(self) -> None:
        """Add the files of the model to the key."""
        if not self.whole_key:
            files = {**self.key.get("files", {}), **self.files()}
            self.key, self.whole_key = {**self.key, "files": files}, True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process while the body runs.

        The folder stays when the body fails after a stage, so that the same command goes on later,
        and is removed when the body ends well. Raises EdgequantError when it cannot be made or
        another process works in it.
        """
        output = self.folder.parent
        new = [folder for folder in (output, *output.parents) if not folder.exists()]
        with self._lock(output):
            try:
                if self.manifest.exists():
                    self._complete_key()
                self._read_manifest()  # another run may have worked here until now
                yield
            except BaseException:
                if not self.manifest.exists():
                    self._remove()  # nothing was finished: leave no trace
                    with suppress(OSError):  # somebody put something there meanwhile
                        for folder in new:
                            folder.rmdir()
                raise
            self.finish(OVER)
            self._remove()

    def _lock(self, output: Path) -> TextIO:
        """The open lock file that stands in the folder, held by this process.

        One that another process opened just before the folder was removed can be held as well, but
        nobody sees it any more.
        """
        path = self.folder / "lock"
        for left in reversed(range(ATTEMPTS)):
            try:
                _make_folder(self.folder)
                lock = path.open("w")
            except OSError as error:
                if isinstance(error, FileNotFoundError) and left:
                    continue  # the folder was removed in between
                raise InputError(
                    f"cannot write in {output} ({error.strerror}); choose another folder with -o."
                ) from error
            try:
                _hold(lock.fileno(), output)
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            except FileNotFoundError:
                pass
            except BaseException:
                lock.close()
                raise
            lock.close()
        raise _taken(output)

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    def begin(self) -> str:
        """Clear what is left of another plan; returns a sentence about what was found, or ""."""
        self._complete_key()
        if self.left and self.stages:
            other = moved(self.left.key, self.key)
            done = f"continuing after {len(self.stages)} finished stages"
            return f"{done}; {other}" if other else done
        self.clear()
        if not self.left:
            return ""
        return f"{told(self.left.key, self.key)} {AFRESH}" if self.left.key else DAMAGED

    def restart(self) -> None:
        """Forget a run that is over, of which something is left because it was killed here."""
        self.clear()
        self.stages = {}

    def _remove(self) -> None:
        """Remove the folder, unless another process is about to work in it."""
        self.clear()
        (self.folder / "lock").unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def clear(self) -> None:
        """Remove all but the lock; the manifest last, so that a kill here forgets nothing."""
        items = [item for item in self.folder.iterdir() if item.name != "lock"]
        for item in sorted(items, key=lambda item: item == self.manifest):
            shutil.rmtree(item) if item.is_dir() else item.unlink()

    def done(self, stage: str) -> bool:
        """Whether the stage was finished, in this run or in an earlier one."""
        return stage in self.stages

    def finish(self, stage: str, **info: Any) -> None:
        """Record a stage with what later stages and the report need of it (JSON values)."""
        self._complete_key()
        self.stages[stage] = info
        key = {kind: dict(values) for kind, values in self.key.items()}
        with self._whole("manifest.json") as file:
            file.write(Manifest(key=key, stages=self.stages).text())

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under a name, complete or not at all."""
        with self._summed(f"{name}.npz") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load(self, name: str, key: str) -> np.ndarray:
        """One array of a stored set, read from disk. Raises EdgequantError when it is damaged."""
        with (
            self._readable(f"{name}.npz") as path,
            path.open("rb") as file,
            np.load(file) as arrays,
        ):
            return np.asarray(arrays[key])

    def save_array(self, name: str, array: np.ndarray) -> None:
        """Store one large array, complete or not at all."""
        with self._summed(f"{name}.npy") as file:
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, header)
            for part in array:  # not all of what lies on disk in memory at once
                file.write(np.ascontiguousarray(part).data)
                drop_pages([array])

    def open_array(self, name: str) -> np.ndarray:
        """A large array as a memory map. Raises EdgequantError when it is damaged."""
        with self._readable(f"{name}.npy") as path:
            return np.asarray(np.load(path, mmap_mode="r"))

    def allocate(self, name: str, shape: tuple[int, ...], max_ram: float) -> np.ndarray:
        """float32 zeros in memory, or in a file of the folder when larger than `max_ram` GiB."""
        size = 4 * int(np.prod(shape, dtype=np.int64))
        if size <= max_ram * 2**30:
            return np.zeros(shape, np.float32)
        path = self.folder / f"{name}.npy"
        with self._disk_errors(path.name):
            _make_folder(path.parent)
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            if hasattr(os, "posix_fallocate"):
                # a map of a file with holes dies of SIGBUS when the disk is full: claim it now
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    def drop(self, file: str) -> None:
        """Forget a stored file that no later stage needs."""
        (self.folder / file).unlink(missing_ok=True)

    def bytes(self) -> int:
        """Bytes that the folder takes on the disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @contextmanager
    def _whole(self, name: str) -> Iterator[BinaryIO]:
        """A file to write that takes the place of `name` at the end, safe on the disk."""
        path = self.folder / name
        temp = path.with_name(path.name + ".tmp")
        with self._disk_errors(name):
            _make_folder(path.parent)
            with temp.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
            _sync_folder(path.parent)

    @contextmanager
    def _summed(self, name: str) -> Iterator[Summed]:
        """As `_whole`, for a file that ends with its checksum."""
        self.sound.discard(self.folder / name)
        with self._whole(name) as file:
            summed = Summed(file)
            yield summed
            summed.end()

    @contextmanager
    def _readable(self, name: str) -> Iterator[Path]:
        """The path of a file that ends with its checksum, which is looked at once."""
        path = self.folder / name
        try:
            if path not in self.sound and not is_sound(path):
                raise ValueError(name)
            self.sound.add(path)
            yield path
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CorruptFileError(
                f"{name} in {self.folder} is missing or damaged; delete that folder and run again."
            ) from error

    @contextmanager
    def _disk_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpaceError(
                f"cannot store {name} in {self.folder} ({error.strerror or error}); free some "
                "space and run the same command again: it goes on from here."
            ) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, safe against a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename safe against a power cut, where the system can sync folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hold(descriptor: int, output: Path) -> None:
    """Hold the folder for this process; the system lets go when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one folder are not told apart
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise _taken(output) from None


def _taken(output: Path) -> InputError:
    return InputError(
        f"another run is working in {output}; wait for it, or choose another folder with -o."
    )
