"""New files appear whole or not at all: written beside the target, synced to disk, then renamed."""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.exchange import replace_folder
from runtime.errors import InputError, SpaceError


@contextmanager
def new_file(path: Path, overwrite: bool = False, needed: int = 0) -> Iterator[Path]:
    """A temporary file that becomes `path` when the block ends and vanishes when it fails.

    `needed` is the size in bytes, compared with the free space first. Raises EdgequantError when
    `path` exists and `overwrite` is false, when its folder is missing or cannot be written, or when
    the disk is or becomes full.
    """
    path = Path(path)
    check_target(path, overwrite, needed)
    with _disk_errors(path, needed):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    temp = Path(name)
    try:
        with _disk_errors(path, needed):
            yield temp
            temp.chmod(0o666 & ~_umask())  # mkstemp made it private
            _sync(temp)
            if path.exists() and not overwrite:  # it may have appeared while we wrote
                raise _exists(path)
            os.replace(temp, path)
            _sync(path.parent)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, overwrite: bool = False, needed: int = 0) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends; errors as in `new_file`."""
    path = Path(path)
    check_target(path, overwrite, needed, folder=True)
    with _disk_errors(path, needed):
        temp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    old = temp.with_suffix(".old")
    try:
        with _disk_errors(path, needed):
            yield temp
            temp.chmod(0o777 & ~_umask())
            for file in sorted(temp.rglob("*")):
                _sync(file)
            _sync(temp)
            if path.exists():
                if not overwrite:
                    raise _exists(path)
                replace_folder(temp, path, old)
            else:
                os.replace(temp, path)
            _sync(path.parent)
    finally:
        _remove(temp)
        if path.exists():  # else it is all that is left
            _remove(old)


def remove_parts(path: Path) -> None:
    """Delete what killed attempts to write `path` left, but for what was there before them."""
    restore(path)
    for suffix in (".part", ".old"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{suffix}"):
            _remove(left)


def restore(path: Path) -> None:
    """Give a folder its name back where a kill came between the two renames of `new_folder`."""
    for old in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.old")):
        if not os.path.lexists(path):
            os.replace(old, path)


def _remove(path: Path) -> None:
    """Delete a file, link or folder that may not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_target(path: Path, overwrite: bool, needed: int = 0, folder: bool = False) -> None:
    """Refuse before any work when the file or folder cannot be made. Errors as in `new_file`."""
    if path.exists() and not overwrite:
        raise _exists(path)
    if path.is_dir() and not folder:
        raise InputError(f"{path} is a folder; choose another name.")
    if not path.parent.exists():
        raise InputError(f"the folder {path.parent} does not exist; create it first.")
    check_folder(path.parent)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise _full(path, needed, free)


def check_folder(folder: Path, option: str = "") -> None:
    """Raise InputError where a folder, which may not exist yet, cannot take a file.

    Nothing is left behind. `option` is the flag that names the folder.
    """
    place = Path(os.path.abspath(folder))
    choose = f"choose another folder{f' with {option}' * bool(option)}."
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise InputError(f"{place} is a file; {choose}")
        # permission bits do not tell: the disk may be mounted for reading, or be no disk
        tempfile.TemporaryFile(dir=place).close()  # on Linux it has no name that a kill could leave
    except OSError as error:
        raise InputError(f"cannot write in {folder} ({error.strerror}); {choose}") from error


def _exists(path: Path) -> InputError:
    return InputError(f"{path} already exists; choose another name, or use --overwrite.")


def _full(path: Path, needed: int, free: int) -> SpaceError:
    wants = f"{path.name} needs {needed:,} bytes and " if needed else ""
    return SpaceError(
        f"no room for {path}: {wants}{path.parent} has {free:,} bytes free; "
        "free some space or write to another disk."
    )


@contextmanager
def _disk_errors(path: Path, needed: int) -> Iterator[None]:
    """ENOSPC and EFBIG as one sentence each; other system errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SpaceError(
                f"{path} is larger than its disk or the limit of this shell (ulimit -f) allows; "
                "write to another place, and run the same command again."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(path, needed, shutil.disk_usage(path.parent).free) from error


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows cannot sync folders and skips them."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
