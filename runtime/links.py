"""What lies in a model's folder, by kind: files, and links to them as a hub's cache holds them."""

import re
from pathlib import Path

from runtime.errors import CorruptFileError, InputError


def check_links(folder: Path) -> None:
    """Raise EdgequantError for what no reader may open, or would take for a file that never was.

    That is a link to nothing, and a pipe or device, which may never end.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() and not path.exists():
            raise CorruptFileError(
                f"{path} is a link to a file that is not there; download the model again, or "
                "remove the link."
            )
        check_kind(path)


def check_kind(path: Path) -> None:
    """Raise InputError for a pipe, a socket or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a pipe or a device; write what it gives into a file.")


def check_inside(folder: Path, file: str, name: str) -> None:
    """Raise CorruptFileError where `file` of a folder names another one that lies outside of it.

    A link in the folder may lead anywhere: whoever made it had a right to.
    """
    if Path(name).is_absolute() or ".." in re.split(r"[/\\]", name):
        raise CorruptFileError(
            f"{folder / file} names {name!r}, which lies outside of the folder; take the one that "
            "came with the weights."
        )


def check_name(path: Path) -> None:
    """Raise InputError for a name in another encoding than UTF-8: reports and libraries need it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {str(path)!r} is not UTF-8; rename it.") from None
