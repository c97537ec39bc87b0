"""The same files in other engines: does llama.cpp, does onnxruntime compute what we computed?

    python bench/engines.py [--windows 8]

Writes the bundled model as GGUF and ONNX and compares logits of the same file on held-out text:
llama.cpp's against our native engine's, and onnxruntime's against our numpy forward on the decoded
weights. Needs the extra `interop`. Prints a table and writes results/engines.json.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
import edgequant
from bench import common
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.loading import kind, open_any
from quantize.progress import silent
from quantize.report.compare import compare
from quantize.report.metrics import summarize

TARGETS = ("gguf:F32", "gguf:Q8_0", "gguf:Q4_0", "gguf:Q4_K_M", "gguf:Q2_K", "onnx:int4")
ENGINES = {"gguf": ("native", "llamacpp"), "onnx": ("numpy", "onnxruntime")}
"""Container -> ours, and the engine that users run."""
LENGTH = 512
"""Tokens a window."""


def measure(checkpoint: Checkpoint, target: str, file: Path, windows: int) -> dict[str, object]:
    """KL, top-1 agreement and perplexity of the foreign engine against ours, on one file."""
    ours, theirs = ENGINES[kind(file)]
    text = calib_data.load("builtin", checkpoint.tokenizer, windows, LENGTH, part="heldout")
    scores = compare(open_any(file, ours), {theirs: open_any(file, theirs)}, text.ids, silent)
    found = summarize(scores[theirs], np.ones(text.rows, bool))
    return {
        "target": target,
        "ours": ours,
        "theirs": theirs,
        "kl": found.kl,
        "top1": found.top1,
        "ppl_ours": found.ppl_original,
        "ppl_theirs": found.ppl,
    }


def main() -> None:
    """Make, measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--windows", type=int, default=8, help="held-out windows")
    windows = parser.parse_args().windows
    checkpoint = open_checkpoint(None)
    with tempfile.TemporaryDirectory() as folder:
        flags = {"to": list(TARGETS), "method": "rtn", "output": folder, "check": False}
        made = edgequant.quantize(**flags).artifacts
        files = {artifact.target: artifact.path for artifact in made}
        rows = [measure(checkpoint, target, file, windows) for target, file in files.items()]
    print(common.table(rows))
    common.write("engines", rows, model=checkpoint.name, heldout_tokens=windows * LENGTH)


if __name__ == "__main__":
    main()
