"""What calibrating each expert is worth, and how many tokens an expert needs for it.

    python bench/moe.py [--model FOLDER] [--steps 240]

The model is that of bench/moe_model.py, made first where no folder is given. Two tables of KL to it
on held-out text, nats a token: methods at Q4_K_M's types (the same bytes), llama.cpp's quantizer
with an importance matrix among them; and experts alone, by GPTQ on few calibration tokens, with the
sample that an expert gets where it saw fewer than so many tokens for each channel of an input
(quantize/calibration/experts.py). 0 is GPTQ by an expert's own tokens alone.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
import edgequant
from bench import common, moe_model, rival
from quantize.calibration import experts
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.progress import silent
from quantize.report.compare import compare
from quantize.report.metrics import summarize
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf

LENGTH, WINDOWS = 256, 16
"""Tokens of a window, and windows that judge."""
ROWS = 64
"""Calibration windows of the first table."""
FEW = (2, 4, 8, 16, 32)
"""Calibration windows of the second one."""
ENOUGH = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Tokens for each channel."""
PRESET, EXPERTS = "Q4_K_M", "Q4_0"
"""Of the first table, and the type of experts in the second one: all else is F16 there."""


def losses(checkpoint: Checkpoint, files: dict[str, Path]) -> dict[str, float]:
    """KL of files to the checkpoint, in nats a token of held-out text."""
    held_out = calib_data.load("builtin", checkpoint.tokenizer, WINDOWS, LENGTH, part="heldout")
    original = open_engine(checkpoint.model(), "torch")
    engines = {name: open_engine(open_gguf(path), "torch") for name, path in files.items()}
    scores = compare(original, engines, held_out.ids, silent)
    every = np.ones(held_out.rows, bool)
    return {name: summarize(found, every).kl for name, found in scores.items()}


def quantized(checkpoint: Checkpoint, folder: Path, preset: str = PRESET, **settings: Any) -> Path:
    """Our file."""
    flags = {"rows": ROWS, "length": LENGTH, "check": False, "effort": "low"} | settings
    made = edgequant.quantize(checkpoint.folder, f"gguf:{preset}", folder, **flags)
    return made.artifacts[0].path


def methods(checkpoint: Checkpoint, folder: Path) -> common.Rows:
    """KL of each method at the same types."""
    base = rival.full_precision(checkpoint, folder / "F32.gguf")
    matrix = rival.importance(checkpoint, ROWS, LENGTH)
    files = {"llama.cpp, importance matrix": folder / "rival.gguf"}
    rival.quantize(checkpoint, base, folder / "rival.gguf", PRESET, matrix)
    for method, effort in (("rtn", "low"), ("gptq", "low"), ("gptq", "medium")):
        name = f"{method} {effort}"
        files[name] = quantized(checkpoint, folder / name, method=method, effort=effort)
    return [
        {"method": name, "weight_bytes": weight_bytes(files[name]), "kl": kl}
        for name, kl in losses(checkpoint, files).items()
    ]


def weight_bytes(path: Path) -> int:
    """Of a file's tensors."""
    return sum(tensor.nbytes for tensor in open_gguf(path).tensors.values())


def few_tokens(checkpoint: Checkpoint, folder: Path) -> common.Rows:
    """KL by calibration tokens and by what counts as enough for an expert; only experts rounded."""
    only: dict[str, Any] = {"preset": "F16", "rules": [f"exps={EXPERTS}"]}
    plain = quantized(checkpoint, folder / "plain", method="rtn", **only)
    rows: common.Rows = []
    for count in FEW:
        files = {"rtn": plain}
        for enough in ENOUGH:
            experts.ENOUGH = enough
            output = folder / f"{count}-{enough:g}"
            files[f"enough_{enough:g}"] = quantized(checkpoint, output, rows=count, **only)
        rows.append({"calibration_tokens": count * LENGTH} | losses(checkpoint, files))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Make the model, and both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    flags = parser.parse_args()
    torch.set_num_threads(1)  # small products: threads only wait for each other
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if flags.model is None:
            moe_model.make(folder / "model", flags.steps)
        checkpoint = open_checkpoint(flags.model or folder / "model")
        for name, table in (("experts", methods), ("experts_few", few_tokens)):
            rows = table(checkpoint, folder)
            print(common.table(rows), flush=True)
            common.write(name, rows, model="bench/moe_model.py", heldout_tokens=WINDOWS * LENGTH)


if __name__ == "__main__":
    main()
