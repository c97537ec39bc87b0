"""What each part of the quantizer is worth: one part more in every row, judged on held-out text.

    python bench/ablation.py [--models FOLDER ...] [--presets Q4_K_M Q2_K] [--windows 32]
                             [--jobs 1]

Every row is a whole run (calibration, gradients, rounding, writing) and a file that our native
engine reads again; KL is against the original on held-out windows of the built-in text. `time` is
the row's time over that of plain GPTQ, the runs of one preset one after the other in one process.
The last row has the bytes of the preset, but types of its own. Writes results/ablation.json.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
import edgequant
from bench import common
from quantize.checkpoint import open_checkpoint
from quantize.loading import open_any
from quantize.plan import EFFORTS, Effort
from quantize.progress import silent
from quantize.report.compare import compare
from quantize.report.metrics import summarize
from runtime.engine import open_engine

LENGTH = 512
"""Tokens a window."""
STATISTICS = Effort(descent_iterations=1, windows=EFFORTS["medium"].windows)
STEPS: dict[str, Effort | str] = {
    "GPTQ": "low",
    "+ coordinate descent": Effort(descent_iterations=1, windows=0),
    "+ statistics of the embedding": STATISTICS,
    "+ scales in norms": replace(STATISTICS, rewrites=("scales",)),
    "+ aim at the original (medium)": "medium",
    "+ tokens weighed by gradients": replace(EFFORTS["medium"], weigh=True),
    "+ three passes of descent": replace(EFFORTS["medium"], weigh=True, descent_iterations=3),
    "+ after-tuning (high)": "high",
}
"""What a row is called -> its effort, by name or in full."""
LAST = "+ types by predicted loss (high, auto)"


def make(model: str | None, flags: dict[str, Any], folder: Path) -> tuple[Path, float]:
    """One artifact, and the seconds it took."""
    start = time.perf_counter()
    made = edgequant.quantize(model, output=folder, check=False, **flags)
    return made.artifacts[0].path, time.perf_counter() - start


def make_all(model: str | None, preset: str, folder: Path) -> dict[str, tuple[Path, float]]:
    """Every row of one preset."""
    to, made = {"to": [f"gguf:{preset}"]}, {}
    for step, (label, effort) in enumerate(STEPS.items()):
        if isinstance(effort, Effort):
            EFFORTS[label] = effort
            effort = label
        made[label] = make(model, to | {"effort": effort}, folder / f"{preset}-{step}")
    size = made["GPTQ"][0].stat().st_size
    auto = {"to": ["gguf:auto"], "effort": "high", "target_size": size}
    return made | {LAST: make(model, auto, folder / f"{preset}-auto")}


def measure(windows: int, case: tuple[str | None, str]) -> common.Rows:
    """The rows of one model and preset."""
    model, preset = case
    checkpoint = open_checkpoint(model)
    held_out = calib_data.load("builtin", checkpoint.tokenizer, windows, LENGTH, part="heldout")
    original = open_engine(checkpoint.model(), "torch")
    with tempfile.TemporaryDirectory() as folder:
        made = make_all(model, preset, Path(folder))
        engines = {label: open_any(path) for label, (path, _) in made.items()}
        scores = compare(original, engines, held_out.ids, silent)
        sizes = {label: path.stat().st_size for label, (path, _) in made.items()}
    found = {label: summarize(scores[label], np.ones(held_out.rows, bool)) for label in made}
    return [
        {
            "model": checkpoint.name,
            "preset": preset,
            "parts": label,
            "bytes": sizes[label],
            "kl": found[label].kl,
            "kl_se": found[label].kl_se,
            "of_gptq": found[label].kl / found["GPTQ"].kl,
            "time": seconds / made["GPTQ"][1],
        }
        for label, (_, seconds) in made.items()
    ]


def main() -> None:
    """Make, measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=[None], help="default: the bundled one")
    parser.add_argument("--presets", nargs="+", default=["Q4_K_M", "Q2_K"])
    parser.add_argument("--windows", type=int, default=32, help="held-out windows")
    parser.add_argument("--jobs", type=int, default=1, help="tables worked on at once")
    flags = parser.parse_args()
    cases = [(model, preset) for model in flags.models for preset in flags.presets]
    rows = common.side_by_side(partial(measure, flags.windows), cases, flags.jobs)
    print(common.table(rows))
    common.write("ablation", rows, heldout_tokens=flags.windows * LENGTH)


if __name__ == "__main__":
    main()
