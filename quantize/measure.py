"""What the model reacts to, measured once before any rounding and kept in the work folder.

tables        Hessians for the embedding and the head
tokens        how much each calibration token counts in each input group (high effort)
predictions   the KL that each type would add in each tensor (automatic targets)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from export import CONTAINERS
from quantize.allocate import predicted_kl, sample
from quantize.checkpoint import Checkpoint
from quantize.fisher import LayerFisher, fisher
from quantize.methods import METHODS, Factor, SingularHessian
from quantize.methods.gptq import factor
from quantize.plan import EFFORTS, LEAST_WINDOWS, Plan
from quantize.progress import Progress
from quantize.resume import Work
from runtime.backends.torch import TorchOps
from runtime.blocks import BLOCKS, Block

STAGE = "measured"
"""In the work folder."""


@dataclass(frozen=True)
class Measured:
    """What `measure` left in a work folder."""

    work: Work

    def table(self, name: str) -> torch.Tensor | None:
        """Hessian (D, D) of the embedding or the head, when it was measured."""
        if name not in self.work.stages.get(STAGE, {}).get("tables", ()):
            return None
        return torch.from_numpy(self.work.load(STAGE, name))

    def tokens(self, index: int) -> dict[str, np.ndarray]:
        """Input group of a layer -> weight of each token (rows, T), mean 1."""
        info = self.work.stages.get(STAGE, {})
        if not info.get("weigh"):
            return {}
        found = {
            group: self.work.load(STAGE, f"{index}.{group}") for group in info["groups"][index]
        }
        return {group: size / max(float(size.mean()), 1e-30) for group, size in found.items()}

    def predictions(self) -> Mapping[str, Mapping[str, float]]:
        """Tensor -> type -> KL."""
        found: Mapping[str, Mapping[str, float]] = self.work.stages[STAGE]["predictions"]
        return found


def measure(
    plan: Plan, checkpoint: Checkpoint, ids: np.ndarray, work: Work, progress: Progress
) -> Measured:
    """Take gradients on the first `windows` of calibration rows (rows, T), unless that is done."""
    if not work.done(STAGE):
        Measuring(plan, checkpoint, ids, work).run(progress)
    return Measured(work)


def windows(plan: Plan) -> int:
    """Calibration windows whose gradients are taken: all at high effort, where tokens get weights,
    else a few, or none."""
    effort = EFFORTS[plan.effort]
    automatic = any(target.automatic for target in plan.targets)
    if not METHODS[plan.method].calibrated:
        return 0
    if effort.weigh:
        return plan.rows
    return min(plan.rows, max(effort.windows, LEAST_WINDOWS if automatic else 0))


def candidates(plan: Plan) -> list[Block]:
    """Types that some automatic target may choose from."""
    holders = [CONTAINERS[t.container] for t in plan.targets if t.automatic]
    return [block for block in BLOCKS.values() if any(c.holds(block) for c in holders)]


class Measuring:
    """One pass of gradients, and what is kept of each layer."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, ids: np.ndarray, work: Work) -> None:
        self.plan, self.checkpoint, self.work = plan, checkpoint, work
        self.weigh = EFFORTS[plan.effort].weigh
        self.ids = ids[: windows(plan)]
        self.blocks = candidates(plan)
        self.arrays: dict[str, np.ndarray] = {}
        self.predictions: dict[str, dict[str, float]] = {}

    def run(self, progress: Progress) -> None:
        """Measure and store."""
        checkpoint, plan = self.checkpoint, self.plan
        ops = TorchOps(plan.device)
        allocate = partial(self.work.allocate, max_ram=plan.max_ram)
        visit = self.layer if self.weigh or self.blocks else None
        found = fisher(checkpoint, self.ids, ops, allocate, visit, plan.seed, progress)
        for name, table in found.tables.items():
            self.arrays[name] = table.hessian.cpu().numpy()
            if self.blocks:
                at = sample(table.rows)
                tensor = checkpoint.tensors[name]
                picked = np.array(tensor.block.decode(tensor.data[at.cpu().numpy()]))
                weight = torch.from_numpy(picked).to(table.rows.device)
                self.predict(name, weight, table.hessian, table.rows)
        self.work.save(STAGE, self.arrays)
        self.work.drop("gradient-states.npy")
        layers = map(checkpoint.arch.layer, range(checkpoint.arch.layers))
        self.work.finish(
            STAGE,
            tables=list(found.tables),
            weigh=self.weigh,
            groups=[[group.name for group in layer.groups] for layer in layers],
            predictions=self.predictions,
        )

    def layer(self, index: int, found: LayerFisher) -> None:
        """Keep what is asked for of one layer."""
        if self.weigh:
            self.arrays |= {f"{index}.{group}": sizes for group, sizes in found.tokens.items()}
        if not self.blocks:
            return
        for group in self.checkpoint.arch.layer(index).groups:
            for linear in group.linears:
                rows = found.rows[linear]
                weight = found.weights[f"{linear}.weight"][sample(rows)]
                hessian = found.hessians[group.name]
                self.predict(f"blk.{index}.{linear}.weight", weight, hessian, rows)

    def predict(
        self, name: str, weight: torch.Tensor, hessian: torch.Tensor, rows: torch.Tensor
    ) -> None:
        """The KL of every type that fits rows of this width."""
        try:
            importance = factor(hessian, self.plan.damp)
        except SingularHessian:  # nothing reaches this tensor: its smallest type will do
            importance = Factor(torch.zeros_like(hessian[0]))
        fitting = [block for block in self.blocks if block.fits(weight.shape[1])]
        self.predictions[name] = {
            block.name: predicted_kl(weight, block, importance, rows) for block in fitting
        }
