"""Walk over the layers once for all targets that can share it; a run resumes after each layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from quantize.checkpoint import Checkpoint, check_finite
from quantize.compensation import Compared, ComparedPrefix, compensate
from quantize.hessian import Hessians, head_hessian
from quantize.imatrix import for_model
from quantize.measure import Measured, measure, windows
from quantize.methods import METHODS, Factor
from quantize.plain import round_layer, round_tensor
from quantize.plan import EFFORTS, Assignment, Plan
from quantize.progress import Progress, silent
from quantize.resume import Work
from quantize.rounding import LayerResult, Recipe, quantize_layer, rewrite_layer
from quantize.stream import Carried, Original, Prefix, embed, forward
from quantize.texts import load_text
from runtime.backends.torch import TorchOps
from runtime.blocks import BLOCKS, numpy_of
from runtime.forward import Layer
from runtime.tensor import Tensor

EXACT = "exact"
"""Name of the states of the original model."""


@dataclass(frozen=True)
class Group:
    """Targets that share one pass over the calibration rows."""

    name: str
    members: tuple[Assignment, ...]
    calibrated: bool

    @property
    def own_prefix(self) -> bool:
        """Whether hidden states pass through the only target's own rounded weights."""
        return self.calibrated and len(self.members) == 1


def group(assignments: list[Assignment], calibrated: bool) -> list[Group]:
    """Targets of 4 bits and more share one pass; below that each sees its own rounded prefix.

    Statistics from the full-precision prefix cost about 2% of KL at 4 bits, and far more at 2.
    """
    floats = [a for a in assignments if all(block.is_float for block in a.types.values())]
    rest = [a for a in assignments if a not in floats]
    if not calibrated:
        return [Group("plain", tuple(assignments), False)]
    shared = [a for a in rest if a.bits >= 4]
    groups = [Group("shared", tuple(shared), True)] if shared else []
    groups += [Group(folder_name(a), (a,), True) for a in rest if a.bits < 4]
    return groups + ([Group("plain", tuple(floats), False)] if floats else [])


def state_sets(plan: Plan, assignments: list[Assignment]) -> int:
    """Sets of hidden states in a walk: the target's, and the original's where linears aim at it."""
    alone = any(g.own_prefix for g in group(assignments, METHODS[plan.method].calibrated))
    return 2 if alone and EFFORTS[plan.effort].compensates else 1


def folder_name(assignment: Assignment) -> str:
    """The target's folder inside the work folder."""
    return assignment.target.label.replace(":", "-")


def quantize_model(
    plan: Plan,
    checkpoint: Checkpoint,
    assignments: list[Assignment],
    work: Work,
    progress: Progress = silent,
) -> str:
    """Round every weight for every target into the work folder; returns the sha256 of the text that
    was read, or "" when none was."""
    method = METHODS[plan.method]
    groups = group(assignments, method.calibrated)
    ids = None
    if any(g.calibrated for g in groups):
        ids = calibration(plan, checkpoint, work, progress)
        if windows(plan):
            measure(plan, checkpoint, ids, work, progress)
    for g in groups:
        Pass(plan, checkpoint, g, work, progress).run(ids if g.calibrated else None)
    # an automatic target of floats alone was chosen by the text as well
    return str(work.stages.get("calibration", {}).get("sha256", ""))


def calibration(plan: Plan, checkpoint: Checkpoint, work: Work, progress: Progress) -> np.ndarray:
    """Token windows (rows, length) int32, kept so that a continued run sees the same."""
    if not work.done("calibration"):
        text = load_text(checkpoint, plan.calibration, plan.rows, plan.length, plan.seed, progress)
        arrays = {"ids": text.ids, "domains": np.array(text.domains)}
        work.save("calibration", arrays)
        work.finish("calibration", sha256=text.sha256, summary=text.summary())
    progress("calibration text", 1, 1, work.stages["calibration"]["summary"])
    return work.load("calibration", "ids")


class Pass:
    """One walk over the layers for one group of targets, resumed after its last finished layer."""

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, members: Group, work: Work, progress: Progress
    ) -> None:
        self.plan, self.checkpoint, self.group, self.work = plan, checkpoint, members, work
        self.progress = progress
        self.ops = TorchOps(plan.device)
        self.recipe = Recipe(
            METHODS[plan.method],
            plan.damp,
            plan.allow_fallback,
            EFFORTS[plan.effort].passes,
            plan.chosen_rewrites,
        )
        method = METHODS[plan.method]
        self.plain = Recipe(METHODS["rtn"] if method.calibrated else method)
        self.measured = Measured(work)
        self.imatrix = for_model(plan.imatrix, checkpoint.arch)
        self.own_prefix = members.own_prefix
        self.compensates = self.own_prefix and EFFORTS[plan.effort].compensates
        """Whether the original's states are kept beside the target's (compensation.py)."""

    def run(self, ids: np.ndarray | None) -> None:
        """Embedding, layers, head."""
        layers = self.checkpoint.arch.layers
        norm = self.checkpoint.tensors["output_norm.weight"]
        check_finite(norm, norm.decode())
        self.embedding(ids)
        start = next(
            (i for i in range(layers) if not self.work.done(f"{self.group.name}/blk.{i}")), layers
        )
        states = None
        if ids is None:
            for index in range(start, layers):
                self.finish(index, self.plain_layer(index), [])
        elif start < layers:
            states = self.start(ids, start)
            source = Original(self.checkpoint, self.ops.device)
            for layer, hessians in forward(self.ops, source, states, self.observe, start):
                found = self.layer(layer, states, hessians)
                self.keep(states, layer.index)
                self.finish(layer.index, *found)
                del layer, hessians
        if not self.checkpoint.arch.tied:
            self.head(ids, states)
        for file in (f"{self.group.name}-hidden", f"{self.group.name}/hidden-{layers - 1}"):
            self.work.drop(f"{file}.npy")

    def keep(self, states: Carried, index: int) -> None:
        """Store the states behind a layer, from which a continued run goes on."""
        self.work.save_array(f"{self.group.name}/hidden-{index}", states.values)
        if isinstance(states, ComparedPrefix):
            self.work.save_array(f"{self.group.name}/{EXACT}-{index}", states.exact)

    def finish(self, index: int, losses: dict[str, float], notes: list[str]) -> None:
        """Record a layer; a continued run starts behind it."""
        self.work.finish(f"{self.group.name}/blk.{index}", losses=losses, notes=notes)
        for states in ("hidden", EXACT):
            self.work.drop(f"{self.group.name}/{states}-{index - 1}.npy")
        layers, worst = self.checkpoint.arch.layers, max(losses.values())
        self.progress(f"layers ({self.group.name})", index + 1, layers, f"loss {worst:.2e}")

    def embedding(self, ids: np.ndarray | None) -> None:
        """The embedding, by what its rows do as inputs and, when tied, as output head."""
        name, note = "token_embd.weight", None
        factor = self.importance(name)
        hessian = self.measured.table(name) if ids is not None else None
        if hessian is not None:
            factor, note = self.recipe.factor(hessian.to(self.ops.device), "token_embd")
        self.globals(name, factor, note)

    def start(self, ids: np.ndarray, index: int) -> Carried:
        """States before layer `index`, on the way that this group takes."""
        hidden = self.states("hidden", ids, index)
        if not self.own_prefix:
            return Carried(hidden)
        if not self.compensates:
            return Prefix(hidden)
        return ComparedPrefix(hidden, self.states(EXACT, ids, index))

    def states(self, name: str, ids: np.ndarray, index: int) -> np.ndarray:
        """States before layer `index`, "hidden" or EXACT: embedded rows, or what the last left."""
        shape = (*ids.shape, self.checkpoint.arch.hidden)
        limit = self.plan.max_ram / (2 if self.compensates else 1)
        hidden = self.work.allocate(f"{self.group.name}-{name}", shape, limit)
        if index:
            hidden[:] = self.work.open_array(f"{self.group.name}/{name}-{index - 1}")
            return hidden
        tensor = self.checkpoint.tensors["token_embd.weight"]
        if self.own_prefix and name != EXACT:
            tensor = stored(self.work, self.checkpoint, self.group.members[0], "token_embd.weight")
        embed(tensor, ids, hidden)
        return hidden

    def observe(self, layer: Layer) -> Hessians:
        """What watches a layer."""
        tokens = self.measured.tokens(layer.index)
        if self.compensates:
            return Compared(layer, self.ops.device, tokens)
        return Hessians(layer.spec, self.ops.device, tokens)

    def layer(
        self, layer: Layer, states: Carried, observer: Hessians
    ) -> tuple[dict[str, float], list[str]]:
        """Round a layer that was watched for each target; states of its own go on through it."""
        spec, weights = layer.spec, dict(layer.weights)
        hessians = observer.mean(math.prod(states.values.shape[:2]))
        if isinstance(observer, Compared):
            weights = compensate(weights, spec.groups, hessians, observer.errors, self.plan.damp)
        for group in spec.groups:
            if factor := self.importance(f"blk.{layer.index}.{group.linears[0]}.weight"):
                hessians[group.name] = factor.importance
        losses: dict[str, float] = {}
        notes: list[str] = []
        for member in self.group.members:
            where = f"blk.{layer.index}"
            types = {linear: member.types[f"{where}.{linear}.weight"] for linear in spec.linears}
            rewritten = rewrite_layer(spec, weights, types, hessians, self.recipe, where)
            result: LayerResult = quantize_layer(
                rewritten[0], spec.groups, types, rewritten[1], self.recipe, f"{where}."
            )
            self.work.save(f"{folder_name(member)}/{where}", result.packed)
            losses |= {f"{member.target.label} {k}": v for k, v in result.losses.items()}
            notes += [f"{member.target.label} {note}" for note in result.notes]
        if isinstance(states, Prefix):
            states.replace(self.ops, Layer(spec, result.values, layer.index))
        return losses, notes

    def plain_layer(self, index: int) -> dict[str, float]:
        """Rounding to nearest for each target."""
        checkpoint, where = self.checkpoint, f"blk.{index}."
        spec = checkpoint.arch.layer(index)
        tensors = {name: checkpoint.tensors[where + name] for name in spec.shapes}
        firsts = {linear: group.linears[0] for group in spec.groups for linear in group.linears}
        factors = {name: self.importance(f"{where}{firsts[name]}.weight") for name in firsts}
        losses: dict[str, float] = {}
        for member in self.group.members:
            types = {name: member.types[f"{where}{name}.weight"] for name in firsts}
            packed, found = round_layer(tensors, types, self.plain, factors, self.ops.device)
            self.work.save(f"{folder_name(member)}/blk.{index}", packed)
            losses |= {f"{member.target.label} {k}": loss for k, loss in found.items()}
        return losses

    def importance(self, name: str) -> Factor | None:
        """What the plan's imatrix says of a weight. Linears of a group have equal inputs."""
        if self.imatrix is None or name not in self.imatrix.means:
            return None
        return Factor(torch.from_numpy(self.imatrix.means[name]).to(self.ops.device))

    def globals(self, name: str, factor: Factor | None, note: str | None = None) -> None:
        """Round the embedding or the head for every target."""
        for member in self.group.members:
            stage = f"{folder_name(member)}/{name}"
            if not self.work.done(stage):
                self.progress(name, 0, 1, member.target.label)
                tensor = self.checkpoint.tensors[name]
                block, device = member.types[name], self.ops.device
                recipe = self.plain if factor is None else self.recipe
                rows, _ = round_tensor(tensor, block, recipe, factor, device)
                self.work.save(stage, {"weight": rows})
                notes = [f"{member.target.label} {note}"] if note else []
                self.work.finish(stage, notes=notes)
                self.progress(name, 1, 1, member.target.label)

    def head(self, ids: np.ndarray | None, states: Carried | None) -> None:
        """The untied output head, against the Hessian of the final hidden states."""
        factor, note = self.importance("output.weight"), None
        stages = [f"{folder_name(member)}/output.weight" for member in self.group.members]
        if ids is not None and not all(map(self.work.done, stages)):
            hidden = (states or self.start(ids, self.checkpoint.arch.layers)).values
            norm = self.ops.load(self.checkpoint.tensors["output_norm.weight"])
            hessian = head_hessian(self.ops, self.checkpoint.arch, norm, hidden)
            factor, note = self.recipe.factor(hessian, "output")
        self.globals("output.weight", factor, note)


def stored(work: Work, checkpoint: Checkpoint, member: Assignment, name: str) -> Tensor:
    """One finished tensor of a target, read from the work folder; tuned, where it was (tune.py)."""
    shape = checkpoint.tensors.shapes[name]
    tuned = f"{folder_name(member)}/tuned"
    accepted = work.stages.get(tuned, {}).get("accepted", False)
    if name.startswith("blk."):
        _, index, rest = name.split(".", 2)
        data = work.load(f"{tuned if accepted else folder_name(member)}/blk.{index}", rest)
        return Tensor(name, shape, member.types.get(name, BLOCKS["F32"]), data)
    if name in member.types:
        data = work.load(f"{folder_name(member)}/{name}", "weight")
        return Tensor(name, shape, member.types[name], data)
    if accepted:
        return Tensor(name, shape, BLOCKS["F32"], work.load(f"{tuned}/{name}", "weight"))
    return Tensor.dense(name, numpy_of(checkpoint.tensors[name].decode()))


def artifact_tensors(work: Work, checkpoint: Checkpoint, member: Assignment) -> Iterator[Tensor]:
    """Every tensor of a target in file order, one at a time."""
    for name in checkpoint.tensors:
        yield stored(work, checkpoint, member, name)
