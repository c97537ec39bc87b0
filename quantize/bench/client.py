"""The other end of `worker.py`: start it, ask it, end it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import runtime.errors
from runtime.errors import InputError, UnsupportedError

PROGRAM = (sys.executable, "-m", "quantize.bench.worker")


class Worker:
    """A file loaded by one engine in a fresh process. `close` ends the process."""

    def __init__(
        self, file: Path, backend: str, threads: int, program: Sequence[str] = PROGRAM
    ) -> None:
        """`program` takes the words and jobs of `worker.py`.

        Raises EdgequantError with the sentence of an engine that cannot load the file.
        """
        self.backend = backend
        asked = {"file": str(file), "backend": backend, "threads": threads}
        # BLAS libraries read their number of threads when they are loaded
        bound = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            [*program, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
            env=os.environ | bound | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self.load_seconds: float = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, job: str, *arguments: int) -> Any:
        """Have one job of `worker.Bench` done."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # of a process that died: it gives no answer, either
            self.process.stdin.write(json.dumps([job, *arguments]) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """The next line of the worker. Raises EdgequantError for an error, or no line at all."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise UnsupportedError(
                f"the {self.backend} engine ended with code {code} before it answered; see what it "
                "printed above, and whether there is enough memory."
            )
        told = json.loads(line)
        if "error" in told:
            raise getattr(runtime.errors, told["error_class"], InputError)(told["error"])
        return told["answer"]

    def close(self) -> None:
        """Stop the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what was never read
                stream.close()
