"""What quantizing 72B and 405B models on several machines takes: docs/scale.md.

    python bench/scale.py [--threads 1] [--machines 8] [--cores 64] [--gbit 25] [--disk 1.0]
                          [--efficiency 0.5]

Measures what each kind of piece (quantize/scale) costs on this machine, in seconds for 10^9
operations and for 10^9 bytes, on sizes of some seconds; and from these, as a forecast, the time and
traffic of a run: one target in GGUF, --effort medium, 64 windows of 512 tokens, without judging.
The forecast takes a machine to be `cores` times `efficiency` as fast as one core of this one, its
network to carry `gbit` * 10^9 bits a second, and its disk 10^9 * `disk` bytes a second.

Writes results/scale_units.json, scale_stages.json and scale.json.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common, shapes
from quantize.calibration.compensation import InputDifference, compared, compensated
from quantize.calibration.compensation_cost import moment_sizes
from quantize.calibration.layer_cost import forward_flops, layer_bytes
from quantize.calibration.stream import TOKENS, take
from quantize.calibration.sums import add_gram, add_half, add_product, mirror, upper_half
from quantize.calibration.workers import Batch
from quantize.methods import METHODS
from quantize.run.cost import FLOAT
from quantize.run.pieces import round_rows, solve
from quantize.run.recipe import Recipe
from quantize.scale.sizes import batch_bytes, store_room
from runtime.archs import Arch, LayerSpec, family_of
from runtime.backends.torch import TorchOps
from runtime.forward import NOBODY, Layer, Positions
from runtime.quant_types import QUANT_TYPES

WINDOWS, LENGTH = 64, 512
"""Of the forecast."""
GRADIENT_WINDOWS = 8
"""Windows whose gradients are taken at medium effort (plan/effort.py), by the first machine."""
BITS = 4.85
"""A weight of Q4_K_M."""
RECIPE = Recipe(METHODS["gptq"], descent_iterations=1)
MODELS = {
    "72B": ("qwen2", 8192, 29568, 80, 64, 152064),
    "405B": ("llama", 16384, 53248, 126, 128, 128256),
}
"""Kind, channels, those of the feed-forward, layers, heads and words of Qwen2.5-72B and
Llama-3.1-405B."""
NAMED = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers")
NAMED += ("num_attention_heads", "vocab_size")
REST = {"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
REST |= {"max_position_embeddings": 32768, "tie_word_embeddings": False}


@dataclass(frozen=True)
class Units:
    """Seconds of one core, for 10^9 operations or bytes."""

    forward: float
    hessian: float
    """Of a sum, of which one half is computed."""
    moment: float
    """Of a whole product of inputs and errors."""
    solve: float
    """Of a Cholesky factor, n^3 / 3."""
    compensate: float
    """Of a factor and two triangles."""
    round: float
    """Of error feedback and one descent, 4 * rows * n^2, and of the loss, 4 * rows * n^2."""
    add: float
    """Bytes of half a sum, added."""
    copy: float
    """Bytes put into a store, or taken out."""


def best(body: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest of some calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        body()
        found.append(time.perf_counter() - start)
    return min(found)


def measure(width: int = 4096, rows: int = 1024) -> Units:
    """The units, with inputs of so many channels and pieces of so many rows."""
    arch = shapes.arch_of("1.5B")
    spec, draw = arch.layer(0), torch.Generator().manual_seed(0)
    weights = {n: 0.02 * torch.randn(s, generator=draw) for n, s in spec.shapes.items()}
    states = np.random.default_rng(0).standard_normal((4, LENGTH, arch.hidden), np.float32)
    batch, layer = Batch((states,), Positions(0, LENGTH)), Layer(spec, weights)
    x, total = torch.randn(TOKENS, width, generator=draw), torch.zeros(width, width)
    hessian = mirror(x.T @ x / TOKENS) + torch.eye(width)
    weight, half = 0.02 * torch.randn(rows, width, generator=draw), upper_half(total)
    against, giga = solve(RECIPE, hessian, False, "")[1], 1e9

    def moved() -> None:
        error = InputDifference(torch.zeros(width, width))
        compensated(0.01, hessian, error, [weight])

    return Units(
        forward=best(lambda: take(TorchOps(), layer, batch, NOBODY))
        / (forward_flops(spec, TOKENS) / giga),
        hessian=best(lambda: add_gram(total, x, x)) / (TOKENS * width**2 / giga),
        moment=best(lambda: add_product(total, x, x)) / (2 * TOKENS * width**2 / giga),
        solve=best(lambda: solve(RECIPE, hessian, False, "")) / (width**3 / 3 / giga),
        compensate=best(moved) / ((width**3 / 3 + 4 * rows * width**2) / giga),
        round=best(lambda: round_rows(against, RECIPE, QUANT_TYPES["Q4_K"], weight, False), 2)
        / (8 * rows * width**2 / giga),
        add=best(lambda: add_half(total, half)) / (half.nbytes / giga),
        copy=best(lambda: half.numpy().copy()) / (half.nbytes / giga),
    )


@dataclass(frozen=True)
class Machines:
    """What the machines are taken to be: times as fast as one core here; bytes a second."""

    count: int
    speed: float
    network: float
    disk: float


@dataclass(frozen=True)
class Stage:
    """One part of a layer's schedule."""

    name: str
    compute: float
    """Seconds on the machines."""
    head_bytes: float
    """Through the network of the machine that runs the command."""
    head: float = 0.0
    """Seconds of work of that machine alone."""

    def seconds(self, machines: Machines) -> float:
        """Pieces travel while others are computed: the slower of the two counts."""
        return max(self.compute, self.head_bytes / machines.network) + self.head


def stages(spec: LayerSpec, units: Units, machines: Machines) -> list[Stage]:
    """The schedule of one layer; see docs/scale.md."""
    giga, speed, batches = 1e9, machines.speed, ceil(WINDOWS * LENGTH / TOKENS)
    waves = ceil(batches / machines.count)
    states = FLOAT * TOKENS * spec.groups[0].width
    groups, sizes = compared(spec), moment_sizes(spec)
    forward = forward_flops(spec, TOKENS) / giga * units.forward
    sums = TOKENS * sum(group.width**2 for group in spec.groups) / giga * units.hessian
    moments = 2 * TOKENS * sum(sizes.values()) / giga * units.moment
    part, weights = batch_bytes(spec, True), layer_bytes(spec)
    hessians = FLOAT * sum(group.width**2 for group in groups)
    outputs = {g.name: sum(spec.linears[name].outputs for name in g.linears) for g in groups}
    solves = [g.width**3 / 3 / giga * units.solve for g in groups]
    moved = [
        (g.width**3 / 3 + 4 * outputs[g.name] * g.width**2) / giga * units.compensate
        for g in groups
    ]
    rounding = sum(8 * outputs[g.name] * g.width**2 for g in groups) / giga * units.round
    folds = sum(g.width**3 / 3 for g in groups if g.fold and g.fold not in spec.linears)
    load = weights / 2 / machines.disk + weights / giga * units.copy / speed
    packed = weights * BITS / 32
    watch = Stage(
        "watch",
        load + waves * (2 * forward + sums + moments) / speed,
        batches * (3 * states + part),
        batches * part / giga * units.add,
    )
    return [
        watch,
        Stage(
            "compensate",
            max(moved) / speed,
            hessians + FLOAT * sum(sizes.values()) + 2 * weights,
            folds / giga * units.solve / speed,
        ),
        Stage("solve", max(solves) / speed, hessians),
        Stage("round", rounding / speed / machines.count, weights + packed),
        Stage(
            "go on",
            packed / machines.network
            + weights / giga * units.copy / speed
            + waves * forward / speed,
            batches * 2 * states + packed,
            (2 * batches * states + packed) / machines.disk,
        ),
    ]


@dataclass(frozen=True)
class Forecast:
    """Of one model."""

    model: str
    stages: list[Stage]
    layers: int
    around: float
    """Seconds before and after the layers, on the first machine: gradients, tables, the file."""
    store: int
    """Most bytes in the object store, over all machines."""
    head_memory: int
    """Bytes that the machine with the command takes for a layer and the states."""


def forecast(name: str, units: Units, machines: Machines) -> Forecast:
    """Of a model of MODELS."""
    config: dict[str, Any] = REST | dict(zip(NAMED, MODELS[name], strict=True))
    arch: Arch = family_of(config).arch(config)
    spec, giga = arch.layer(0), 1e9
    parameters = sum(map(prod, arch.shapes().values()))
    table = arch.vocab * arch.hidden
    gradients = 3 * 2 * GRADIENT_WINDOWS * LENGTH * parameters / giga * units.forward
    rounding = 2 * 8 * table * arch.hidden / giga * units.round
    files = (2 * parameters + 2 * parameters * BITS / 8) / machines.disk
    hessians = FLOAT * sum(group.width**2 for group in spec.groups)
    moments = FLOAT * sum(moment_sizes(spec).values())
    states = 2 * FLOAT * WINDOWS * LENGTH * arch.hidden
    return Forecast(
        name,
        stages(spec, units, machines),
        arch.layers,
        (gradients + rounding) / machines.speed + files,
        store_room(arch, WINDOWS * LENGTH, True),
        2 * layer_bytes(spec) + hessians + moments + states,
    )


def rows(found: Forecast, machines: Machines) -> common.Rows:
    """A line for each stage of a layer, and for all of the run."""
    return [
        {
            "model": found.model,
            "stage": stage.name,
            "machines s": round(stage.compute, 1),
            "network s": round(stage.head_bytes / machines.network, 1),
            "head s": round(stage.head, 1),
            "seconds a layer": round(stage.seconds(machines), 1),
            "GB a layer": round(stage.head_bytes / 1e9, 1),
        }
        for stage in found.stages
    ]


def total(found: Forecast, machines: Machines) -> dict[str, Any]:
    """The whole run."""
    layer = sum(stage.seconds(machines) for stage in found.stages)
    return {
        "model": found.model,
        "layers": found.layers,
        "seconds a layer": round(layer, 1),
        "hours of layers": round(found.layers * layer / 3600, 2),
        "hours around": round(found.around / 3600, 2),
        "hours": round((found.layers * layer + found.around) / 3600, 2),
        "TB": round(found.layers * sum(stage.head_bytes for stage in found.stages) / 1e12, 2),
        "store GB": round(found.store / 1e9, 1),
        "head GB": round(found.head_memory / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=common.count, default=1)
    parser.add_argument("--machines", type=common.count, default=8)
    parser.add_argument("--cores", type=common.count, default=64)
    parser.add_argument("--gbit", type=common.size, default=25)
    parser.add_argument("--disk", type=common.size, default=1.0)
    parser.add_argument("--efficiency", type=common.size, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    units = measure()
    speed = args.cores * args.efficiency
    lines, totals = [], []
    for count in dict.fromkeys((1, args.machines)):
        machines = Machines(count, speed, args.gbit * 1e9 / 8, args.disk * 1e9)
        for name in MODELS:
            found = forecast(name, units, machines)
            lines += [{"machines": count} | line for line in rows(found, machines)]
            totals.append({"machines": count} | total(found, machines))
    measured = [{"unit": name, "seconds": round(s, 4)} for name, s in asdict(units).items()]
    for table in (measured, lines, totals):
        print(common.table(table), end="\n\n")
    common.write("scale_units", measured)
    common.write("scale_stages", lines)
    common.write("scale", totals)


if __name__ == "__main__":
    main()
