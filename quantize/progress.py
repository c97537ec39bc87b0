"""How the long steps tell what they are doing."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with a step, how much of it is done, of how much, and a status note."""


def silent(step: str, done: int, total: int, note: str) -> None:
    """A Progress that shows nothing."""
