"""What a judged run costs, against the steps of llama.cpp that give the same.

    make rivals
    python bench/run_cost.py [--only 0.5B 1.5B] [--layers 24] [--effort medium low] [--keep FOLDER]

Random checkpoints with the shapes of Qwen2.5, to a judged gguf:Q4_K_M, in CPU seconds of all
threads: 64 windows of calibration, which is our default, and 32 to judge on. llama.cpp's steps are
those of its importance matrix (the forward of as many calibration tokens), its quantizer, and its
KL divergence (the forwards of the original and of the file over the windows that we judge on, with
all logits), in llama.cpp compiled for the processor; what its tools do beside calling it is not
counted, nor is its conversion. Its original is the faster one of F16 and F32. Prints a table and
writes results/run_cost.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, memory
from bench.rivals import require, start
from export.gguf_general import FILE_TYPES
from quantize.checkpoint import bundled
from quantize.plan.effort import EFFORTS
from tests.random_checkpoint import random_checkpoint

ROWS, LENGTH = 64, 512
"""Calibration windows and their tokens: our defaults."""
EVAL_ROWS = 32
"""Windows that a run is judged on."""
PRESET = "Q4_K_M"
SHAPES = {"0.5B": (memory.SMALL, 24), "1.5B": (memory.LARGE, 28)}
"""Name -> sizes of a layer, and layers."""


def child(arguments: list[str]) -> tuple[float, float, int]:
    """CPU seconds, seconds and peak resident bytes of the command line in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "quantize.cli", *arguments],
        cwd=common.ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"quantize {' '.join(arguments)} failed with exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return cpu, time.perf_counter() - began, usage.ru_maxrss * 1024


def forward(file: Path, threads: int, count: int, every: bool) -> float:
    """CPU seconds of llama.cpp for windows of a file."""
    with closing(start(file, "llama_cpp", threads)) as worker:
        worker.ask("windows", 1, LENGTH, 0)  # the file is in memory from here on
        seconds: float = worker.ask("windows", count, LENGTH, int(every))
        return seconds


def rival(model: Path, folder: Path, threads: int) -> dict[str, float]:
    """CPU seconds of each of llama.cpp's steps."""
    bases = {}
    for name in ("F16", "F32"):
        target = ["--to", f"gguf:{name}", "--method", "rtn", "--no-check", "--overwrite"]
        child(["run", str(model), *target, "-o", str(folder / name)])
        bases[name] = next((folder / name).glob("*.gguf"))
    costs = {name: forward(base, threads, 2, False) for name, base in bases.items()}
    base = bases[min(costs, key=lambda name: costs[name])]
    made = folder / f"{PRESET}.gguf"
    with closing(start(base, "llama_cpp", threads)) as worker:
        quantize = worker.ask("quantize", str(base), str(made), FILE_TYPES[PRESET])
    judged = [forward(file, threads, EVAL_ROWS, True) for file in (base, made)]
    return {
        "importance": forward(base, threads, ROWS, False),
        "quantize": quantize,
        "kl": sum(judged),
    }


def rows_of(name: str, folder: Path, flags: argparse.Namespace) -> common.Rows:
    """A line for llama.cpp's steps, and one for each effort of ours."""
    sizes, layers = SHAPES[name]
    layers = flags.layers or layers
    model = folder / f"{name}-{layers}"
    if not (model / "config.json").exists():
        config = memory.QWEN | sizes | {"num_hidden_layers": layers}
        random_checkpoint(model, config, bundled())
    work = folder / "work"
    steps = rival(model, work, flags.threads)
    whole = sum(steps.values())
    told = {"model": model.name, **dict.fromkeys(("importance", "quantize", "kl"), "-")}
    rows: common.Rows = [told | steps | tail("llama.cpp", whole, whole, "-", "-")]
    for effort in flags.effort:
        arguments = ["run", str(model), "--to", f"gguf:{PRESET}", "--effort", effort]
        arguments += ["--eval-rows", str(EVAL_ROWS), "--overwrite", "-o", str(work / effort)]
        cpu, seconds, peak = child(arguments)
        rows.append(told | tail(f"edgequant, {effort}", cpu, whole, seconds, peak))
    return rows


def tail(program: str, cpu: float, rival: float, seconds: Any, peak: Any) -> dict[str, Any]:
    """The columns that all lines have."""
    share = {"cpu_seconds": cpu, "share": cpu / rival, "seconds": seconds, "peak_bytes": peak}
    return {"program": program, **share}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument(
        "--layers", type=common.count, help="of the model; those of Qwen2.5 by default"
    )
    parser.add_argument("--effort", nargs="+", choices=EFFORTS, default=["medium", "low"])
    parser.add_argument("--threads", type=common.count, default=2)
    parser.add_argument("--keep", type=Path, help="folder for checkpoints, kept afterwards")
    flags = parser.parse_args()
    require(["llama_cpp"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for name in flags.only for row in rows_of(name, folder, flags)]
    common.write("run_cost", rows, threads=flags.threads, calibration_tokens=ROWS * LENGTH)
    print(common.table(rows))


if __name__ == "__main__":
    main()
