"""A server of llama.cpp in a process of its own, which is killed at the end.

xllamacpp's own end of a server sometimes waits for one of its threads for ever (2026.10).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any


@contextmanager
def serving(**settings: Any) -> Iterator[str]:
    """The address of a server with these settings of CommonParams: model__path is model.path."""
    command = [sys.executable, __file__, json.dumps(settings)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout
        try:
            lines = (line.strip() for line in program.stdout)
            yield next(line for line in lines if line.startswith("http://"))
        finally:
            program.kill()


def _serve(settings: dict[str, Any]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name, value in settings.items():
        *parts, last = name.split("__")
        setattr(reduce(getattr, parts, params), last, value)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()  # until it is killed


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
