"""The errors that a user sees: one sentence that says what, which, and what to do next.

    EdgequantError
        InputError          a name, path or setting that the caller must change; a ValueError too
        UnsupportedError    sound, but not for this version, this machine or what is installed
        CorruptFileError    a file is cut, damaged or incomplete, or contradicts the one beside it
        SpaceError          the disk or the memory is too small
        GateError           an artifact was measured and is not good enough

Each raise names a kind, so that a program can tell them apart; nobody raises EdgequantError itself.
"""

import re
from collections.abc import Iterable
from typing import Any


def one_line(text: str) -> str:
    """Text with control characters as Python writes them: names out of files may hold any."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, separators of lines, marks that turn the order of what is shown, and halves
of surrogate pairs."""


class EdgequantError(Exception):
    """Whatever stops an operation; the command exits 2, and 1 for a failed gate."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class InputError(EdgequantError, ValueError):
    """A name, path or setting that cannot be used as it is given."""


class UnsupportedError(EdgequantError):
    """What was given is sound, but this version, machine or installation cannot do it."""


class CorruptFileError(EdgequantError):
    """A file is cut, damaged or incomplete, or contradicts the one beside it."""


class SpaceError(EdgequantError):
    """The disk or the memory is too small."""


class GateError(EdgequantError):
    """An artifact was written and measured, and is not good enough.

    `failures` holds a sentence for each failed gate, naming the artifact; `result` what would have
    been returned if none had failed.
    """

    def __init__(self, failures: Iterable[str], result: Any = None) -> None:
        self.failures, self.result = tuple(failures), result
        super().__init__(self.failures, result)  # what pickle makes it from again

    def __str__(self) -> str:
        return one_line(f"gate failed: {'; '.join(self.failures)}.")
