"""Words of a shell line, for the commands that messages and model cards tell users to run."""

import shlex
from pathlib import Path


def word(path: str | Path) -> str:
    """A path as one word of a POSIX shell, which no program takes for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
