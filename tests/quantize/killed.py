"""Kill a run at many moments with SIGKILL, let it go on, and compare what it wrote; prints JSON.

    python -m tests.quantize.killed MODEL FOLDER '{"to": ["onnx:int4"]}'

The last argument holds what the plan sets besides the model. Runs are forked from one process,
before torch has started any thread. A moment is a call that makes something durable or visible: a
sync, a rename or a removal.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from quantize.run import pipeline
from tests.quantize.runs import small_plan

MOMENTS = ("fsync", "replace", "unlink", "rmdir")
"""Functions of `os` that every durable step goes through."""


def counted(function: Callable[..., Any], before: Callable[[], None]) -> Callable[..., Any]:
    """The function, with something done before each call."""

    def call(*args: Any, **options: Any) -> Any:
        before()
        return function(*args, **options)

    return call


def child(model: Path, output: Path, flags: dict[str, Any], kill_at: int | None) -> tuple[int, int]:
    """Run in a fork, killed before moment `kill_at`; returns its exit status and its moments."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        seen = 0

        def before() -> None:
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in MOMENTS:
            setattr(os, name, counted(getattr(os, name), before))
        torch.set_num_threads(1)
        plan = small_plan(model, check=False, output=str(output), **flags)
        pipeline.run(plan)
        os.write(writer, str(seen).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        moments = int(answer.read() or 0)
    return os.waitpid(process, 0)[1], moments


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def is_over(output: Path, expected: dict[str, bytes]) -> bool:
    """Whether all was done but for the removal of the work folder: its manifest goes last."""
    manifest = output / ".edgequant" / "manifest.json"
    return not manifest.exists() and expected.items() <= files(output).items()


def main(model: Path, folder: Path, flags: dict[str, Any]) -> None:
    """One uninterrupted run, then one killed at every eleventh moment."""
    status, moments = child(model, folder / "whole", flags, None)
    assert status == 0
    expected = files(folder / "whole")
    rows = []
    for moment in range(1, moments + 1, 11):
        output = folder / str(moment)
        killed, _ = child(model, output, flags, moment)
        if is_over(output, expected):
            continue
        finished, _ = child(model, output, flags, None)
        assert finished == 0
        found = files(output)
        rows.append(
            {
                "moment": moment,
                "killed": os.WIFSIGNALED(killed),
                "same": {name: found.get(name) for name in expected} == expected,
                "left": ", ".join(sorted(found.keys() - expected.keys())),
            }
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
