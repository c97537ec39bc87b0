"""A power cut: what was not synced when a run was killed is lost, as a disk may lose it.

Contents of files written since their last fsync are cut or gone, and renames since the last fsync
of their folder are undone. Removals are taken to be on the disk at once.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from export.exchange import exchange

LOSSES = ("empty", "half", "gone", "names")
"""What becomes of files that were not synced; "names" leaves them, and undoes renames alone."""


def cut(journal: Path, folder: Path, loss: str) -> int:
    """Lose what the journal of a killed run does not call safe; returns how much that was."""
    dirty: set[int] = set()
    moves: list[list[str | int | None]] = []
    for line in journal.read_text().splitlines():
        what, inode, *names = json.loads(line)
        if what == "dirty":
            dirty.add(inode)
        elif what == "clean":
            dirty.discard(inode)
        elif what == "names":
            moves = [move for move in moves if move[1] != inode]
        else:
            moves.append([what, inode, *names])
    lost = 0
    for path in files_below(folder):
        if loss != "names" and path.name != "lock" and path.stat().st_ino in dirty:
            lost += 1
            lose(path, loss)
    for move in reversed(moves):
        lost += undo(move)
    return lost


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder that may not be there."""
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def lose(path: Path, loss: str) -> None:
    """Cut a file, or remove it."""
    if loss == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if loss == "empty" else path.stat().st_size // 2)


def undo(move: list[str | int | None]) -> bool:
    """Take a rename back, where both folders are still there."""
    what, one, other = move[0], Path(str(move[2])), Path(str(move[3]))
    if not one.parent.is_dir() or not os.path.lexists(other):
        return False
    if what == "exchanged":
        return one.exists() and exchange(one, other)
    if os.path.lexists(one):
        return False
    os.replace(other, one)
    if move[4]:
        os.replace(str(move[4]), other)
    return True
