"""What every bench shares: where and of what a figure was made, and how it is shown and kept."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

Rows = list[dict[str, Any]]
"""A table: one dict a line, the same keys in each."""
Item = TypeVar("Item")


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    import numpy
    import torch

    return {
        "processor": processor(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def side_by_side(work: Callable[[Item], Rows], items: Sequence[Item], jobs: int) -> Rows:
    """The rows of every item, `jobs` of them worked on at once in processes of their own."""
    import torch

    # they share the cores: threads that outnumber them wait for each other
    share = (max(1, len(cores()) // jobs),)
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=share
    )
    with pool:
        return [row for found in pool.map(work, items) for row in found]


def commit() -> str:
    """The commit of the program, with "+" when files were changed since."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
    )
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


def command() -> str:
    """How this program was started, from the project's folder."""
    program = Path(sys.argv[0]).resolve()
    shown = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program.name
    return shlex.join(["python", str(shown), *map(argument, sys.argv[1:])])


def argument(given: str) -> str:
    """An argument as it is kept: of a path outside of the project only the name."""
    path = Path(given)
    outside = path.exists() and not path.resolve().is_relative_to(ROOT)
    return path.name if outside else given


def count(given: str) -> int:
    """A whole number above 0, of a command line."""
    found = int(given)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{given} is not above 0")
    return found


def size(given: str) -> float:
    """A number above 0, of a command line."""
    found = float(given)
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not above 0")
    return found


def write(name: str, rows: Rows, **facts: Any) -> Path:
    """Keep a table as bench/results/NAME.json with machine, commit and command."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "commit": commit(), "command": command(), **facts, "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def table(rows: Rows) -> str:
    """A table in Markdown, as the README has it."""
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns)]
    cells += [[text(row[column]) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def text(value: Any) -> str:
    """A cell: integers with thousands, four significant digits of others."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
