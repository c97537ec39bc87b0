"""A disk that is really full: a small file system in memory, where this user may mount one."""

import random
import shutil
import subprocess
from pathlib import Path

from tests.trust.kill_cases import Trial, kind

SMALL_DISK = "small disk"
ENOUGH = 64 << 20
"""Bytes in which every plan finds room."""


def mount(place: Path, size: int, again: bool = False) -> bool:
    """Mount a file system of so many bytes, or give a mounted one that size; whether it worked."""
    options = f"{'remount,' * again}size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount"):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(place: Path) -> None:
    """Give it back, with what is in it."""
    subprocess.run(["umount", str(place)], capture_output=True, check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may; told by trying."""
    place = folder / "mounted"
    place.mkdir()
    if not mount(place, 1 << 20):
        return False
    unmount(place)
    return True


@kind(SMALL_DISK)
def small_disk(trial: Trial, draw: random.Random) -> None:
    """A run on a disk that is too small for it, and again when there is room."""
    here, trial.output = trial.output, trial.place / "disk" / "out"
    disk = trial.output.parent
    disk.mkdir()
    needed = sum(map(len, trial.subject.expected.values()))
    old = sum(path.stat().st_size for path in here.rglob("*") if path.is_file())
    assert mount(disk, old + draw.randint(4096, needed))
    try:
        if here.exists():
            shutil.copytree(here, trial.output)
        told = trial.run()
        if not told.error and not told.trace:
            trial.faults.append("a small disk was not told")
        assert mount(disk, ENOUGH, again=True)
        trial.settle()
    finally:
        unmount(disk)
