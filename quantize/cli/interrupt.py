"""Ctrl-C: the first one ends the command in order, a second one at once, both with exit code 130.

An exception alone does not do. Raised in a destructor or in a callback of Python's own, it is
lost; raised while an archive is being written, it leaves as the archive's complaint about that.
So the key is remembered: `check` asks again, and `main` looks at it whatever came out.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

EXIT = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""

_pressed = False


class Interrupted(BaseException):
    """Ctrl-C. No KeyboardInterrupt: libraries turn that into exit codes and waits of their own."""


def watch() -> None:
    """Answer Ctrl-C from here on, unless who started this process has it ignored."""
    global _pressed
    _pressed = False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _press)
        sys.unraisablehook = _lost


def pressed() -> bool:
    """Whether Ctrl-C was pressed since `watch`."""
    return _pressed


def check() -> None:
    """Raise again an `Interrupted` that got lost."""
    if _pressed:
        raise Interrupted


def too_late() -> None:
    """All that was asked for is done: from here on Ctrl-C changes nothing."""
    global _pressed
    if signal.getsignal(signal.SIGINT) is _press:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pressed = False


def sentence() -> str:
    """What the user is told, and the way on after the command that was asked for."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command != "run":
        return "interrupted."
    return "interrupted; run the same command again to go on after the last finished stage."


def _lost(what: Any) -> None:
    """Say what a destructor or a callback raised; after Ctrl-C that is Ctrl-C's doing."""
    if not _pressed:
        sys.__unraisablehook__(what)


def _press(number: int, frame: FrameType | None) -> None:
    global _pressed
    if _pressed:  # a run is cut off as safely as by a power cut: the next one goes on
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hid it
        os.write(sys.stderr.fileno(), f"{cursor}{sentence()}\n".encode())
        os._exit(EXIT)
    _pressed = True
    raise Interrupted
