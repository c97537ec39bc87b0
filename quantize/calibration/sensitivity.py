"""What the model reacts to, measured once before any rounding and kept in the work folder.

tables        Hessians for the embedding and the head
tokens        how much each calibration token counts in each input group (high effort)
predictions   the KL that each type would add in each tensor (automatic targets)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export import CONTAINERS
from quantize.allocation.allocate import SAMPLE, predicted_kl, sample
from quantize.calibration.fisher import LayerFisher, fisher
from quantize.calibration.fisher_cost import fisher_cost, states_bytes
from quantize.calibration.rows import Rows
from quantize.calibration.streamed import whole
from quantize.methods import HessianFactor, SingularHessian
from quantize.methods.gptq import factor
from quantize.plan import Target
from quantize.run.copied import stays
from quantize.run.cost import FLOAT, Cost, on_disk
from quantize.run.job import Job
from quantize.run.resume import ENTRY
from quantize.run.rounding_cost import SEARCH
from quantize.run.store import StoredStep
from runtime.archs import LayerSpec
from runtime.backends.torch import TorchOps
from runtime.quant_types import QUANT_TYPES, QuantType

LEAST = 16
"""Rows of each expert that are rounded at least: all experts together are many."""


@dataclass(frozen=True)
class FisherStatistics:
    """What `collect` left in a work folder."""

    entry: StoredStep

    def table(self, name: str) -> torch.Tensor | None:
        """Hessian (D, D) of the embedding or the head, when it was measured."""
        if name not in self.entry.facts.get("tables", ()):
            return None
        return torch.from_numpy(self.entry.load(name))

    def tokens(self, index: int) -> dict[str, np.ndarray]:
        """Input group of a layer -> weight of each token (rows, T), mean 1."""
        facts = self.entry.facts
        if not facts.get("weigh"):
            return {}
        found = {
            group: self.entry.load(token_key(index, group)) for group in facts["groups"][index]
        }
        return {group: size / max(float(size.mean()), 1e-30) for group, size in found.items()}

    def predictions(self) -> Mapping[str, Mapping[str, float]]:
        """Tensor -> type -> KL."""
        found: Mapping[str, Mapping[str, float]] = self.entry.facts["predictions"]
        return found


def stems(spec: LayerSpec) -> dict[str, None]:
    """The input groups of a layer, all experts as one."""
    return dict.fromkeys(group.stem for group in spec.groups)


def token_key(index: int, group: str) -> str:
    """Name of the array of token weights of an input group of a layer."""
    return f"{index}.{group}"


def collect(job: Job, rows: Rows) -> FisherStatistics:
    """Take gradients on the first windows of calibration rows, unless that is done."""
    entry = job.store.statistics
    if not entry.done:
        Collection(job, rows).run(entry)
    return FisherStatistics(entry)


def sampled(spec: LayerSpec, linear: str) -> int:
    """Rows of a matrix that are rounded to know what a type costs it."""
    return max(LEAST, SAMPLE // (spec.linears[linear].experts or 1))


def candidates(targets: tuple[Target, ...]) -> list[QuantType]:
    """Types that some automatic target may choose from."""
    holders = [CONTAINERS[target.container] for target in targets if target.automatic]
    return [qtype for qtype in QUANT_TYPES.values() if any(c.holds(qtype) for c in holders)]


class Collection:
    """One pass of gradients, and what is kept of each layer."""

    def __init__(self, job: Job, rows: Rows) -> None:
        self.job, self.checkpoint, self.damp = job, job.checkpoint, job.recipe.damp
        self.weigh = job.calibration.weigh
        self.rows = rows.taken(np.arange(job.calibration.windows))
        self.blocks = candidates(job.targets)
        self.arrays: dict[str, np.ndarray] = {}
        self.predictions: dict[str, dict[str, float]] = {}

    def run(self, entry: StoredStep) -> None:
        """Measure and store."""
        job, checkpoint = self.job, self.checkpoint
        ops, seed = TorchOps(job.device), job.calibration.seed
        visit = self.layer if self.weigh or self.blocks else None
        with job.store.scratch(job.way.states) as allocate:
            streamed = job.way.streamed
            found = fisher(
                checkpoint, self.rows, ops, allocate, visit, seed, job.progress, linears=streamed
            )
            for name, table in found.tables.items():
                self.arrays[name] = table.hessian.cpu().numpy()
                if self.blocks:
                    at = sample(table.rows)
                    tensor = checkpoint.tensors[name]
                    picked = np.array(tensor.qtype.decode(tensor.data[at.cpu().numpy()]))
                    weight = torch.from_numpy(picked).to(table.rows.device)
                    self.predict(name, weight, table.hessian, table.rows)
            entry.save(self.arrays)
        layers = map(checkpoint.arch.layer, range(checkpoint.arch.layers))
        entry.finish(
            tables=list(found.tables),
            weigh=self.weigh,
            groups=[list(stems(layer)) for layer in layers],
            predictions=self.predictions,
        )

    def layer(self, index: int, found: LayerFisher) -> None:
        """Keep what is asked for of one layer."""
        if self.weigh:
            self.arrays |= {token_key(index, group): sizes for group, sizes in found.tokens.items()}
        if not self.blocks:
            return
        spec = self.checkpoint.arch.layer(index)
        for group in spec.groups:
            for linear in group.linears:
                rows = found.rows[group.part(linear)]
                weight = whole(group.matrix(linear, found.weights))
                weight = weight[sample(rows, sampled(spec, linear))]
                hessian = found.hessians[group.name]
                self.predict(f"blk.{index}.{linear}.weight", weight, hessian, rows)

    def predict(
        self, name: str, weight: torch.Tensor, hessian: torch.Tensor, rows: torch.Tensor
    ) -> None:
        """The KL of every type that fits rows of this width; of an expert it is added."""
        try:
            importance = factor(hessian, self.damp)
        except SingularHessian:  # nothing reaches this tensor: its smallest type will do
            importance = HessianFactor(torch.zeros_like(hessian[0]))
        fitting = [qtype for qtype in self.blocks if qtype.fits(weight.shape[1])]
        known = self.predictions.setdefault(name, dict.fromkeys((q.name for q in fitting), 0.0))
        source = self.checkpoint.tensors.qtype(name)
        for qtype in fitting:
            if stays(source, qtype):
                continue  # it costs nothing
            known[qtype.name] += predicted_kl(weight, qtype, importance, rows)


def statistics_cost(job: Job) -> Cost:
    """Of `collect`: gradients, and Hessians and weights of tokens that stay on disk."""
    ask, arch = job.calibration, job.checkpoint.arch
    if not ask.windows:
        return Cost()
    blocks, specs = candidates(job.targets), [arch.layer(i) for i in range(arch.layers)]
    visited = ask.weigh or bool(blocks)
    way = job.way
    found = fisher_cost(arch, ask.windows, ask.length, visited, way.states, way.streamed)
    tables = 2 if arch.own_head else 1
    weighed = sum(len(stems(spec)) for spec in specs) if ask.weigh else 0
    numbers = tables * arch.hidden**2 + weighed * ask.windows * ask.length
    kept = FLOAT * numbers + ENTRY * (tables + weighed)
    flops = found.flops
    if blocks:
        taken = sum(
            sampled(spec, linear) * group.width
            for spec in specs
            for group in spec.groups
            for linear in group.linears
        )
        flops += len(blocks) * SEARCH * taken
        # every linear's own
        flops += sum(
            len(group.linears) * group.width**3 / 3 for spec in specs for group in spec.groups
        )
    states = on_disk(states_bytes(arch, ask.windows, ask.length), job.way.states)
    memory = found.memory + FLOAT * numbers
    return Cost(memory=memory, what=found.what, disk=states + kept, kept=kept, flops=flops)
