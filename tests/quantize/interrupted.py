"""Press Ctrl-C at many moments of a run, let it go on, and compare what it wrote; prints JSON.

    python -m tests.quantize.interrupted MODEL FOLDER

Moments are those of killed.py, and calls of functions in which Python or a library loses an
exception or makes another one of it. Runs are forked from one process, before torch has started
any thread.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from quantize import cli
from quantize.run.version import code_version
from tests.quantize.killed import MOMENTS, counted, files, is_over

LOSES = {
    "a destructor": "ZipFile.__del__",
    "a callback of the import system": "_get_module_lock.<locals>.cb",
    "an archive that is begun": "_ZipWriteFile.__init__",
    "an archive that is closed": "_ZipWriteFile.close",
    "a progress line": "Console.print",
}
"""What is going on -> the function whose first call is the moment."""

Arrange = Callable[[], None]
"""Prepares a forked process."""


def press() -> None:
    """As the terminal does."""
    signal.raise_signal(signal.SIGINT)


def nothing() -> None:
    """Nobody presses anything."""


def at_moments(*numbers: int) -> Arrange:
    """Ctrl-C before these calls of `MOMENTS`, counted from 1."""

    def arrange() -> None:
        seen = 0

        def before() -> None:
            nonlocal seen
            seen += 1
            if seen in numbers:
                press()

        for name in MOMENTS:
            setattr(os, name, counted(getattr(os, name), before))

    return arrange


def in_call(function: str) -> Arrange:
    """Ctrl-C in the first call of a Python function."""

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_qualname == function:
            sys.setprofile(None)
            press()

    return lambda: sys.setprofile(look)


def child(model: Path, output: Path, arrange: Arrange) -> tuple[int, str]:
    """The command in a fork: its exit code, and what it said."""
    said = output.with_suffix(".said")
    process = os.fork()
    if process == 0:
        for path, stream in ((os.devnull, 1), (said, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        flags = ["--no-check", "--calib-rows", "4", "--calib-length", "64", "--effort", "low"]
        sys.argv = ["quantize", "run", str(model), "--to", "onnx:int4", *flags, "-o", str(output)]
        # tests beside each other run in processes that ignore it, and so would their children
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        code: Any = 1
        arrange()
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said.read_text()


def durable_moments(model: Path, output: Path) -> tuple[int, dict[str, bytes]]:
    """How many there are in a whole run, and the files that it writes."""
    seen = output.with_suffix(".moments")

    def arrange() -> None:
        def before() -> None:
            with seen.open("a") as file:
                file.write(".")

        for name in MOMENTS:
            setattr(os, name, counted(getattr(os, name), before))

    code, said = child(model, output, arrange)
    assert code == 0, said
    return len(seen.read_text()), files(output)


def main(model: Path, folder: Path) -> None:
    """One uninterrupted run, then one interrupted at each moment that is tried."""
    folder.mkdir()
    count, expected = durable_moments(model, folder / "whole")
    tried = {f"moment {at}": at_moments(at) for at in range(1, count + 1, 11)}
    tried |= {what: in_call(function) for what, function in LOSES.items()}
    tried["twice while it tidies up"] = at_moments(1, 2)
    rows = []
    for number, (what, arrange) in enumerate(tried.items()):
        output = folder / str(number)
        code, said = child(model, output, arrange)
        row = {"what": what, "code": code, "said": said, "same": True}
        if not is_over(output, expected):
            again, said = child(model, output, nothing)
            row["same"] = again == 0 and files(output) == expected
        rows.append(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    code_version()  # so that every module of it is imported before a fork
    main(Path(sys.argv[1]), Path(sys.argv[2]))
