"""Chat templates, rendered as transformers renders them: jinja2's sandbox with its extensions.

https://huggingface.co/docs/transformers/chat_templating says what a template may use. A template
is a program that comes with the model: it runs in a process of its own (runtime/chat_sandbox.py),
started for the first text and kept for the next ones, with limits of time, memory and output.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

REFUSED = "the chat template refused the messages: "
"""How the error of a template begins."""
SECONDS = 10.0
"""Of processor time that one text may take; templates of today take milliseconds."""
CHARACTERS = 1 << 24
"""That one text may have."""
PATIENCE = 30
"""Times as long on the clock: a busy machine is no fault of the template."""


def render(
    template: str,
    variables: Mapping[str, Any],
    seconds: float = SECONDS,
    characters: int = CHARACTERS,
) -> str:
    """A chat template's text. Raises ValueError, in one line, for whatever goes wrong in it.

    variables: JSON values. seconds, of processor time, and characters are the most it may take.
    """
    given = {"tools": None, "documents": None} | dict(variables)
    asked = {"template": template, "variables": given, "seconds": seconds, "characters": characters}
    try:
        line = json.dumps(asked).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{REFUSED}they are no JSON values ({error})") from error
    with LOCK:
        told = _asked(line, seconds)
    if "error" in told:
        raise ValueError(f"{REFUSED}{told['error']}")
    return str(told["text"])


LOCK = threading.Lock()
"""One text at a time."""
RUNNING: dict[int, subprocess.Popen[bytes]] = {}
"""This process -> the one that renders for it; a copy of this process starts its own."""


def _asked(line: bytes, seconds: float) -> dict[str, str]:
    """What the other process answers, or in its place why there is no answer."""
    process = _running()
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(seconds * PATIENCE, stop)
    clock.start()
    try:
        with suppress(BrokenPipeError):  # it died: it gives no answer, either
            process.stdin.write(line)
            process.stdin.flush()
        told = process.stdout.readline()
        if told.endswith(b"\n"):
            return dict(json.loads(told))
    except BaseException:  # such as Ctrl-C: the answer would be taken for that to the next text
        _end()
        raise
    finally:
        clock.cancel()
    code = _end()
    if late.is_set() or code == -getattr(signal, "SIGPROF", 0):
        return {"error": f"it was stopped after {seconds:g} seconds of computing"}
    return {"error": f"the process that renders it ended with code {code}"}


def _running() -> subprocess.Popen[bytes]:
    """The process, started where there is none; it ends when this one does."""
    found = RUNNING.get(os.getpid())
    if found is not None and found.poll() is None:
        return found
    if found is not None:
        _end()
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.chat_sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    RUNNING[os.getpid()] = process
    return process


def _end() -> int:
    """End the process; its exit code."""
    process = RUNNING.pop(os.getpid())
    process.kill()
    code = process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with suppress(BrokenPipeError):  # what was never read
            stream.close()
    return code


@atexit.register
def end() -> None:
    """End the process, if there is one."""
    if os.getpid() in RUNNING:
        _end()
