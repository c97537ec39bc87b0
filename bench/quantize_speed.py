"""Time of quantizing: plain rounding against llama.cpp's quantizer, and GPTQ against GPTQModel's.

    python bench/quantize_speed.py [--only plain gptq] [--threads 2] [--repeat 5]
                                   [--gptqmodel PYTHON]

plain  Qwen2.5-1.5B's shape as Q4_K_M, from float16 in memory to packed bytes: each different pair
       of shape and type is rounded by both in turn, and medians are added up over the tensors.
       llama.cpp's side is ggml's quantizer on stripes of rows, one a thread, which is what
       llama-quantize does; it is given float32, so that its time is without the conversion.
       Errors are relative squared ones, plain and as llama.cpp weighs them.
gptq   the seven linears of one layer (`block.py`) to Q4_K with 32,768 tokens, Hessians included,
       against GPTQModel with groups of 32, in turn. PYTHON is an interpreter that has it:
       `python -m venv gptqm && gptqm/bin/pip install gptqmodel`. Without it ours is timed alone.

Needs the extra `interop` for `plain`. Prints a table of each and writes results/quantize_speed.json
and results/gptq_speed.json.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import block, common, shapes
from bench.rival import chunk
from quantize.calibration.sums import add_gram, mirror
from quantize.methods import METHODS
from quantize.plan import Target, assign
from quantize.run.data_free import round_tensor
from quantize.run.pieces import chunks, quantize_weight
from quantize.run.recipe import Recipe
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor

SUB_BLOCK = 32
"""Weights whose mean square enters llama.cpp's weight of an error."""
CHUNK_ROWS = 8192
"""Rows whose error is taken at a time."""

Kind = tuple[tuple[int, int], str]
"""Shape and type of a tensor."""


def kinds(size: str, preset: str) -> Counter[Kind]:
    """How many 2-D tensors of each shape and type a model has."""
    arch = shapes.arch_of(size)
    types = assign(Target("gguf", preset), arch, ()).types
    known = arch.shapes().items()
    return Counter(((s[0], s[1]), types[name].name) for name, s in known if len(s) == 2)


def ours(weight: Tensor, layout: QuantType) -> np.ndarray:
    """Packed rows as `quantize run --method rtn` makes them."""
    recipe = Recipe(METHODS["rtn"])
    return round_tensor(weight, layout, recipe, None, torch.device("cpu"))[0]


def theirs(
    weight: np.ndarray, layout: QuantType, pool: ThreadPoolExecutor, threads: int
) -> np.ndarray:
    """Packed rows by ggml; ctypes lets go of the GIL while it works."""
    stripes = np.array_split(weight, threads)
    return np.concatenate(list(pool.map(lambda rows: chunk(layout, rows, None), stripes)))


def as_stored(weight: np.ndarray) -> Tensor:
    """A float16 matrix as a checkpoint has it."""
    return Tensor("w", weight.shape, QUANT_TYPES["F16"], weight.view(np.uint8))


def errors(weight: np.ndarray, packed: np.ndarray, layout: QuantType) -> np.ndarray:
    """Squared error and square, then both as llama.cpp weighs them: |w| + rms of the sub-block."""
    sums = np.zeros(4)
    for start in range(0, len(weight), CHUNK_ROWS):
        w = weight[start : start + CHUNK_ROWS]
        square = (w - layout.decode(packed[start : start + CHUNK_ROWS])) ** 2
        groups = w.reshape(-1, SUB_BLOCK)
        rms = np.sqrt(np.mean(groups**2, axis=1, keepdims=True))
        importance = (np.abs(groups) + rms).reshape(w.shape)
        sums += [square.sum(), (w**2).sum(), (square * importance).sum(), (w**2 * importance).sum()]
    return sums


def plain(threads: int, repeat: int) -> common.Rows:
    """Round each kind of tensor `repeat` times by both, in turn."""
    pool = ThreadPoolExecutor(threads)
    random = np.random.default_rng(0)
    rows: common.Rows = []
    totals = np.zeros((2, 4))
    for (shape, name), count in kinds("1.5B", "Q4_K_M").items():
        layout = QUANT_TYPES[name]
        drawn = (shapes.DEVIATION * random.standard_normal(shape, np.float32)).astype(np.float16)
        stored, weight = as_stored(drawn), drawn.astype(np.float32)
        makers = [partial(ours, stored, layout), partial(theirs, weight, layout, pool, threads)]
        seconds, packed = in_turn(makers, repeat)
        sums = np.array([errors(weight, made, layout) for made in packed])
        totals += count * sums
        rows.append(plain_row(f"{shape[0]} x {shape[1]}", name, count, seconds, sums))
        print(common.table(rows[-1:]), file=sys.stderr, flush=True)
    whole = [[sum(row["tensors"] * row[side] for row in rows)] for side in ("ours", "llama.cpp")]
    count = sum(row["tensors"] for row in rows)
    return [*rows, plain_row("all, added up", "Q4_K_M", count, whole, totals)]


def plain_row(
    shape: str, name: str, count: int, seconds: list[list[float]], sums: np.ndarray
) -> dict[str, Any]:
    """A line: seconds of one tensor, how many times as fast, and relative errors."""
    middle = [statistics.median(times) for times in seconds]
    plain_error, weighted = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    return {
        "shape": shape,
        "type": name,
        "tensors": count,
        "ours": middle[0],
        "llama.cpp": middle[1],
        "ratio": statistics.median(b / a for a, b in zip(*seconds, strict=True)),
        "error": float(plain_error[0]),
        "llama.cpp_error": float(plain_error[1]),
        "weighted_error": float(weighted[0]),
        "llama.cpp_weighted_error": float(weighted[1]),
    }


def in_turn(
    makers: list[Callable[[], np.ndarray]], repeat: int
) -> tuple[list[list[float]], list[np.ndarray]]:
    """Seconds of each function, `repeat` rounds of one after the other, and what they made."""
    seconds: list[list[float]] = [[] for _ in makers]
    for _ in range(repeat):
        packed = []
        for make, times in zip(makers, seconds, strict=True):
            start = time.perf_counter()
            packed.append(make())
            times.append(time.perf_counter() - start)
    return seconds, packed


@torch.inference_mode()
def our_stage(stage: int, device: str = "cpu") -> tuple[float, float]:
    """Seconds for the Hessian of a stage, and for rounding its linears with GPTQ to Q4_K."""
    width = block.STAGES[stage][0]
    weights = [torch.from_numpy(values).to(device) for values in block.weights(stage).values()]
    batches = [torch.from_numpy(batch).to(device) for batch in block.inputs(stage)]
    total, recipe = torch.zeros(width, width, device=device), Recipe(METHODS["gptq"])
    start = now(device)
    for batch in batches:
        add_gram(total, batch, batch)
    hessian = mirror(total).div_(block.TOKENS)
    middle = now(device)
    factor, _ = recipe.factor(hessian, "")
    for rows in itertools.chain(*map(chunks, weights)):
        quantize_weight(rows, QUANT_TYPES["Q4_K"], recipe, factor)
    return middle - start, now(device) - middle


def now(device: str) -> float:
    """Seconds of a clock, when all that a device was given is done."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class GptqModel:
    """GPTQModel in its own Python; see `gptqmodel_block.py`."""

    def __init__(self, python: str, threads: int) -> None:
        program = str(common.ROOT / "bench" / "gptqmodel_block.py")
        self.process = subprocess.Popen(
            [python, program, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = str(self.answer()["version"])

    def answer(self) -> dict[str, Any]:
        """The next line, which comes when its work is done."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit("GPTQModel ended before it answered; see what it printed above")
        return json.loads(line)

    def quantize(self) -> dict[str, float]:
        """Seconds for Hessians and for rounding of the whole layer."""
        assert self.process.stdin
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self.answer()


def our_layer(device: str = "cpu") -> dict[str, float]:
    """Seconds for Hessians and for rounding of the whole layer."""
    seconds = [our_stage(stage, device) for stage in block.STAGES]
    return {"hessians": sum(s[0] for s in seconds), "rounding": sum(s[1] for s in seconds)}


def gptq(rival: GptqModel | None, repeat: int) -> common.Rows:
    """The layer by ours and by GPTQModel, in turn."""
    sides: dict[str, Callable[[], dict[str, float]]] = {"edgequant": our_layer}
    if rival:
        sides[f"GPTQModel {rival.version}"] = rival.quantize
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, quantize in sides.items():
            rounds[name].append(quantize())
            print(name, rounds[name][-1], file=sys.stderr, flush=True)
    first = next(iter(rounds.values()))
    return [gptq_row(name, found, first) for name, found in rounds.items()]


def gptq_row(
    name: str, found: list[dict[str, float]], first: list[dict[str, float]]
) -> dict[str, Any]:
    """A line: medians, the share of rounding, and how many times as long as ours it took."""
    totals = [sum(times.values()) for times in found]
    of_ours = [total / sum(times.values()) for total, times in zip(totals, first, strict=True)]
    shares = [times["rounding"] / total for times, total in zip(found, totals, strict=True)]
    return {
        "quantizer": name,
        "hessians": statistics.median(times["hessians"] for times in found),
        "rounding": statistics.median(times["rounding"] for times in found),
        "total": statistics.median(totals),
        "rounding_share": statistics.median(shares),
        "times_ours": statistics.median(of_ours),
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=("plain", "gptq"), default=["plain", "gptq"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; figures are medians")
    parser.add_argument("--gptqmodel", metavar="PYTHON", help="an interpreter that has gptqmodel")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    facts = {"threads": flags.threads, "repeat": flags.repeat}
    if "plain" in flags.only:
        rows = plain(flags.threads, flags.repeat)
        print(common.table(rows))
        common.write("quantize_speed", rows, **facts)
    if "gptq" in flags.only:
        rival = GptqModel(flags.gptqmodel, flags.threads) if flags.gptqmodel else None
        rows = gptq(rival, flags.repeat)
        print(common.table(rows))
        common.write("gptq_speed", rows, **facts, tokens=block.TOKENS)


if __name__ == "__main__":
    main()
