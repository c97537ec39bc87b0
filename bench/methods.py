"""How much closer to the original each method is, at the same bytes, on text it never saw.

For each type all linears of the decoder have that one type, so that nothing differs but the method;
embedding and head are the same in every row. Each file is written, opened again and run in a real
engine (GGUF in our native one, ONNX in onnxruntime) on held-out windows of the built-in text, and
compared with the full-precision model: KL divergence in nats a token. `python bench/accuracy.py`
makes the table and keeps it as results/accuracy.json.
"""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import calib_data
import edgequant
from bench import common
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.loading import open_any
from quantize.progress import silent
from quantize.report.compare import compare
from quantize.report.metrics import summarize
from runtime.engine import open_engine

TYPES = {
    "Q4_0": "gguf:Q4_0",
    "Q4_K": "gguf:Q4_K_M",
    "Q3_K": "gguf:Q3_K_M",
    "INT4_32": "onnx:int4",
}
"""Type of all linears -> the target whose embedding and head go with it."""
METHODS = ("rtn", "gptq", "awq", "awq-gptq")
LENGTH = 512
"""Tokens a window, for calibration and for judging."""


@dataclass(frozen=True)
class Made:
    """One artifact of the comparison."""

    type_name: str
    method: str
    path: Path
    seconds: float

    @property
    def bytes(self) -> int:
        """Bytes on disk; of an ONNX folder the weights alone, without the copied tokenizer."""
        path = self.path / "model.onnx.data" if self.path.is_dir() else self.path
        return path.stat().st_size


def make(type_name: str, method: str, rows: int, folder: Path, model: str | None = None) -> Made:
    """Quantize all linears to one type."""
    flags = {
        "model": model,
        "to": [TYPES[type_name]],
        "rules": [rf"^blk\.={type_name}"],
        "method": method,
        "effort": "low",  # nothing but the method itself
        "rows": rows,
        "length": LENGTH,
        "output": str(folder / f"{type_name}-{method}"),
        "check": False,
    }
    start = time.perf_counter()
    made = edgequant.quantize(**flags)
    return Made(type_name, method, made.artifacts[0].path, time.perf_counter() - start)


def measure(checkpoint: Checkpoint, made: list[Made], windows: int) -> common.Rows:
    """KL of every artifact against the original, in one pass over the held-out windows."""
    held_out = calib_data.load("builtin", checkpoint.tokenizer, windows, LENGTH, part="heldout")
    original = open_engine(checkpoint.model(), "torch")
    engines = {f"{item.type_name} {item.method}": open_any(item.path) for item in made}
    scores = compare(original, engines, held_out.ids, silent)
    rows: common.Rows = []
    for item in made:
        found = summarize(scores[f"{item.type_name} {item.method}"], np.ones(held_out.rows, bool))
        rows.append(
            {
                "type": item.type_name,
                "method": item.method,
                "bytes": item.bytes,
                "kl": found.kl,
                "kl_se": found.kl_se,
                "top1": found.top1,
                "ppl": found.ppl,
                "seconds": round(item.seconds, 1),
            }
        )
    plain = {row["type"]: row["kl"] for row in rows if row["method"] == "rtn"}
    for row in rows:
        row["of_rtn"] = row["kl"] / plain[row["type"]] if row["type"] in plain else None
    return rows


def run(types: Iterable[str], methods: Iterable[str], rows: int, windows: int) -> common.Rows:
    """Make every artifact of the bundled model, measure, print, keep."""
    checkpoint = open_checkpoint(None)
    with tempfile.TemporaryDirectory() as folder:
        made = [
            make(type_name, method, rows, Path(folder)) for type_name in types for method in methods
        ]
        found = measure(checkpoint, made, windows)
    print(common.table(found), flush=True)
    facts = {"calibration_tokens": rows * LENGTH, "heldout_tokens": windows * LENGTH}
    common.write("accuracy", found, model=checkpoint.name, **facts)
    return found
