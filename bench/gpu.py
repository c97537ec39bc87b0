"""What a CUDA card makes of it: generation, prompts, the share of its bandwidth, and GPTQ.

    python bench/gpu.py [--repeat 5] [--prompt 512] [--generate 64]

Models have Qwen2.5's shapes and random weights. `generate` is tokens a second of the torch backend;
`products` what it would be if a token were its products alone, one call after the other, so that
the two tell how much goes into everything else; `of_bandwidth` is the share of the card's memory
bandwidth (a copy inside its memory, read and written) that the products reach. GPTQ is of one layer
of the 1.5B shape to Q4_K, Hessians included, in seconds, on the card and on the CPU. Figures are
medians. Writes results/gpu.json and results/gpu_gptq.json; without a card it says so and writes
nothing.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, shapes
from bench.quantize_speed import now, our_layer
from quantize.bench.speed import weight_bytes
from runtime.engine import OpsEngine, open_engine
from runtime.model import Model

DEVICE = "cuda"
FILES = (("0.5B", "Q8_0"), ("1.5B", "Q4_0"), ("1.5B", "Q4_K_M"), ("1.5B", "Q6_K"))
COPY = 1 << 30
"""Bytes of the copy, far more than any cache."""
WARM_UP = 3
"""Calls before anything is timed; the first compiles."""


def seconds(work: Callable[[], object], repeat: int, device: str = DEVICE) -> float:
    """Median time of a piece of work on the card."""
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(repeat):
        start = now(device)
        work()
        times.append(now(device) - start)
    return statistics.median(times)


def bandwidth(repeat: int) -> float:
    """Bytes a second of the card's memory, read and written."""
    source = torch.ones(COPY, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * COPY / seconds(lambda: target.copy_(source), repeat)


def token_products(engine: OpsEngine, model: Model, device: str) -> Callable[[], None]:
    """All products of one token, in its order; nothing is waited for in between."""
    layers = [name for name in model.tensors if name.startswith("blk.")]
    names = [n for n in layers if len(model.tensors[n].shape) == 2] + [model.arch.head]
    widths = {model.tensors[name].shape[1] for name in names}
    x = {width: torch.ones(1, width, device=device) for width in widths}

    def run() -> None:
        for name in names:
            engine.ops.matmul(x[model.tensors[name].shape[1]], engine.weights[name], None)

    return run


@torch.inference_mode()
def measure(
    size: str, preset: str, flags: argparse.Namespace, most: float, device: str = DEVICE
) -> dict[str, Any]:
    """A line of the table; `most` is the bandwidth."""
    arch = shapes.arch_of(size)
    model = Model(arch, {tensor.name: tensor for tensor in shapes.tensors(size, preset)})
    engine = open_engine(model, "torch", device=device)
    assert isinstance(engine, OpsEngine)
    ids = np.random.default_rng(0).integers(arch.vocab, size=(1, flags.prompt))

    def prompt() -> None:
        engine.logits(ids, engine.new_cache(1, flags.prompt), last=True)

    def generate() -> None:
        cache = engine.new_cache(1, flags.generate)
        for _ in range(flags.generate):
            engine.logits(ids[:, :1], cache, last=True)

    alone = seconds(token_products(engine, model, device), flags.repeat, device)
    return {
        "model": f"{size} {preset}",
        "prompt": flags.prompt / seconds(prompt, flags.repeat, device),
        "generate": flags.generate / seconds(generate, flags.repeat, device),
        "products": 1 / alone,
        "of_bandwidth": weight_bytes(model) / alone / most,
    }


def gptq(repeat: int) -> common.Rows:
    """GPTQ of one layer, on the card and on the CPU."""
    rows = []
    for device in (DEVICE, "cpu"):
        found = [our_layer(device) for _ in range(repeat + 1)][1:]
        parts = {part: statistics.median(times[part] for times in found) for part in found[0]}
        rows.append({"device": device, **parts, "total": sum(parts.values())})
    return rows


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds; figures are medians")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--generate", type=int, default=64, help="tokens generated")
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA card here that torch can use: nothing was measured.")
        return
    most = bandwidth(flags.repeat)
    facts = {"card": torch.cuda.get_device_name(), "bytes_per_second": most, **vars(flags)}
    rows = [measure(size, preset, flags, most) for size, preset in FILES]
    print(common.table(rows))
    print(common.write("gpu", rows, **facts))
    rows = gptq(flags.repeat)
    print(common.table(rows))
    print(common.write("gpu_gptq", rows, **facts))


if __name__ == "__main__":
    main()
