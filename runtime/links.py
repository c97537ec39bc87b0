"""Links in a model's folder: a hub's cache holds nothing else."""

from pathlib import Path

from runtime.errors import CorruptFileError


def check_links(folder: Path) -> None:
    """Raise CorruptFileError for a link to nothing: its file would count as one that never was."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() and not path.exists():
            raise CorruptFileError(
                f"{path} is a link to a file that is not there; download the model again, or "
                "remove the link."
            )
