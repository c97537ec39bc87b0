"""A run in a fork whose operations on files are counted, and that is disturbed at one of them.

Operations: calls of `os` that change files, opening a file to write, each write of Python's own
files, and the exchange of two names. Numpy maps what it writes to large arrays; those writes are
not seen, their allocation is.
"""

import builtins
import errno
import io
import json
import os
import select
import signal
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from export import exchange
from quantize.run import pipeline
from runtime.errors import EdgequantError
from tests.quantize.runs import small_plan

GROWING = ("open", "mkdir", "posix_fallocate", "write")
"""Operations that a full disk refuses."""


@dataclass(frozen=True)
class Disturbance:
    """What happens to a run."""

    what: str = ""
    """"kill" before operation `at`; "full": from there on the disk is full; "limit": no file may be
    larger than `at` bytes; "later": killed from outside after `at` milliseconds."""
    at: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    killed: bool = False
    operations: int = 0
    said: list[str] = field(default_factory=list)
    error: str = ""
    """The sentence of an EdgequantError."""
    trace: str = ""
    """Of any other exception, which is a fault of the program."""


class CountedFile(io.FileIO):
    """A file whose writes are operations."""

    watch: "Watch"

    def write(self, data: Any) -> int:
        CountedFile.watch.before("write")
        CountedFile.watch.note("dirty", os.fstat(self.fileno()).st_ino)
        return super().write(data)


class Watch:
    """Counts operations, does what is asked at one, and notes which files are safe on the disk."""

    def __init__(self, disturbance: Disturbance, journal: Path) -> None:
        self.disturbance, self.count, self.kept = disturbance, 0, 0
        # on a full disk, and where files are limited, it would be disturbed itself
        self.noted = disturbance.what == "kill"
        self.side = journal.with_suffix(".side")
        self.side.mkdir()
        self.write = os.write
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.open, self.replace = io.open, os.replace

    def note(self, *facts: Any) -> None:
        """Append a line to the journal, which outlives a kill."""
        if self.noted:
            self.write(self.journal, f"{json.dumps(facts)}\n".encode())

    def before(self, operation: str) -> None:
        """Count an operation, and disturb it if it is the one."""
        self.count += 1
        what, at = self.disturbance.what, self.disturbance.at
        if what == "kill" and self.count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full" and self.count >= at and operation in GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self) -> None:
        """Watch every operation of this process from now on."""
        CountedFile.watch = self
        for name in ("mkdir", "posix_fallocate", "unlink", "rmdir", "chmod"):
            setattr(os, name, self.counted(name, getattr(os, name)))
        os.fsync = self.synced(os.fsync)
        os.replace = self.moved(os.replace)
        os.rename = self.moved(os.rename)
        os.open = self.opened(os.open)
        exchange.exchange = self.exchanged(exchange.exchange)
        builtins.open = io.open = self.file  # type: ignore[assignment]

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """The function as an operation."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.before(name)
            return real(*arguments, **options)

        return call

    def opened(self, real: Callable[..., int]) -> Callable[..., int]:
        """os.open: an operation where it makes a file."""

        def call(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                self.before("open")
            return real(path, flags, *arguments, **options)

        return call

    def synced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            self.before("fsync")
            real(descriptor)
            found = os.fstat(descriptor)
            self.note("names" if stat.S_ISDIR(found.st_mode) else "clean", found.st_ino)

        return call

    def moved(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(one: Any, other: Any, **options: Any) -> None:
            self.before("replace")
            kept = None
            if self.noted and os.path.isfile(other):
                self.kept += 1
                kept = str(self.side / str(self.kept))
                os.link(other, kept)
            real(one, other, **options)
            place = os.stat(os.path.dirname(os.path.abspath(other))).st_ino
            self.note("moved", place, str(one), str(other), kept)

        return call

    def exchanged(self, real: Callable[[Path, Path], bool]) -> Callable[[Path, Path], bool]:
        def call(one: Path, other: Path) -> bool:
            self.before("exchange")
            done = real(one, other)
            if done:
                self.note("exchanged", os.stat(other.parent).st_ino, str(one), str(other))
            return done

        return call

    def file(self, path: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        """`open`: an operation where the file is written, as is each of its writes."""
        if not set(mode) & set("wax+") or isinstance(path, int) or "opener" in more:
            return self.open(path, mode, buffering, *text, **more)
        self.before("open")
        raw = CountedFile(path, mode.replace("b", "").replace("t", ""))
        self.note("dirty", os.fstat(raw.fileno()).st_ino)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **more)


def launch(
    flags: dict[str, Any], output: Path, journal: Path, disturbance: Disturbance | None = None
) -> Outcome:
    """Run a plan into a folder in a fork; `journal` is a new file on the same disk."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        answer = _run(flags, output, journal, disturbance or Disturbance())
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answered:
        if disturbance and disturbance.what == "later":
            ready, _, _ = select.select([answered], [], [], disturbance.at / 1000)
            if not ready:
                os.kill(process, signal.SIGKILL)
        text = answered.read()
    killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
    return Outcome(killed=killed) if killed or not text else Outcome(**json.loads(text))


def _run(flags: dict[str, Any], output: Path, journal: Path, disturbed: Disturbance) -> Any:
    """The run itself, in the fork: the fields of its outcome."""
    torch.set_num_threads(1)
    said: list[str] = []
    answer: dict[str, Any] = {"said": said}
    watch = Watch(disturbed, journal)
    write = os.write
    if disturbed.what == "limit":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (disturbed.at, hard))
    watch.install()
    try:
        pipeline.run(small_plan(check=False, output=str(output), **flags), say=said.append)
    except EdgequantError as error:
        answer["error"] = str(error)
    except BaseException:
        answer["trace"] = traceback.format_exc()
    os.write = write
    return answer | {"operations": watch.count}
