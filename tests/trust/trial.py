"""One damaged file, opened as a command opens it."""

import random
import shutil
import signal
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import EdgequantError
from tests.trust.readers import Subject

SECONDS = 20
"""That an opening may take; the slowest sound one takes half a second."""
OURS = ("runtime", "quantize", "export", "edgequant", "calib_data")


TURNING = "\u202a\u202b\u202d\u202e\u2066\u2067"
"""Marks that turn the order of what is shown."""


class Late(BaseException):
    """An opening took too long."""


class Result(NamedTuple):
    """What became of a damaged file."""

    seed: int
    what: str
    """How it was damaged."""
    refused: bool
    """In one sentence; otherwise it was opened."""
    place: str
    """The fault of ours: an exception that is no sentence, and where; "" where there is none."""


class Trial:
    """A subject in a folder, put right after each opening."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.sound = subject, folder / "sound"
        self.sound.mkdir()
        self.named = subject.make(self.sound).relative_to(self.sound)
        self.copy = folder / "copy"

    def once(self, seed: int) -> Result:
        """Damage the file and open it."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.sound, self.copy)
        named = self.copy / self.named
        file = named / self.subject.file if self.subject.file else named
        what, data = self.subject.damage(random.Random(seed), file)
        file.write_bytes(data)
        refused, place = opened(lambda: self.subject.open(named))
        return Result(seed, what, refused, place)


def opened(call: Any) -> tuple[bool, str]:
    """Whether a call refuses in one sentence, and where it fails otherwise."""
    try:
        with warnings.catch_warnings(), limited(SECONDS):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of damaged weights
            call()
    except (EdgequantError, OSError) as error:
        # the command line tells OSError by its own words, see quantize/cli/system.py
        told = str(error)
        sound = not any(unicodedata.category(char) == "Cc" or char in TURNING for char in told)
        return True, "" if sound else f"unprinted characters: {told[:80]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return False, place_of(error)
    return False, ""


def place_of(error: BaseException) -> str:
    """The exception's kind, and the innermost line of ours."""
    root = Path(__file__).resolve().parents[2]
    inner = "?"
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if root in path.parents and path.relative_to(root).parts[0] in OURS:
            inner = f"{path.relative_to(root)}:{frame.lineno} {frame.name}"
    return f"{type(error).__name__} at {inner}: {str(error)[:80]!r}"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise Late where the body takes longer."""

    def late(signum: int, frame: object) -> None:
        raise Late(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
