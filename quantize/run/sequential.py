"""Walk over the layers once for all targets that can share it; a run resumes after each layer."""

from collections import ChainMap
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from quantize.calibration.compensation import Compared, ComparedPrefix, compared, compensate
from quantize.calibration.experts import ExpertHessians
from quantize.calibration.hessian import Hessians, head_hessian
from quantize.calibration.routed import Routed
from quantize.calibration.rows import Rows
from quantize.calibration.sensitivity import FisherStatistics, collect
from quantize.calibration.states import embed
from quantize.calibration.stream import Carried, OriginalLayers, Prefix, forward
from quantize.calibration.workers import RoundedLayer
from quantize.checkpoint import check_finite
from quantize.methods import HessianFactor
from quantize.run.copied import copied_linears
from quantize.run.data_free import round_layer, round_tensor
from quantize.run.job import Group, Job
from quantize.run.rewriting import rewrite_layer
from quantize.run.rounding import LayerResult, quantize_layer
from quantize.run.store import WHICH, StoredStates, Which
from quantize.run.stored import stored
from quantize.run.streamed_layer import Found, copy, streamed_layers
from quantize.run.text import calibration
from runtime.archs import InputGroup
from runtime.backends.torch import TorchOps
from runtime.forward import Layer


def quantize_model(job: Job) -> str:
    """Round every weight for every target into the work folder; returns the sha256 of the text that
    was read, or "" when none was."""
    rows = None
    if any(group.calibrated for group in job.groups):
        rows = calibration(job)
        if job.calibration.windows:
            collect(job, rows)
    for group in job.groups:
        Pass(job, group).run(rows if group.calibrated else None)
    # an automatic target of floats alone was chosen by the text as well
    return str(job.store.calibration.facts.get("sha256", ""))


class Pass:
    """One walk over the layers for one group of targets, resumed after its last finished layer."""

    def __init__(self, job: Job, group: Group) -> None:
        self.job, self.group, self.store = job, group, job.store
        self.checkpoint, self.recipe = job.checkpoint, job.recipe
        self.ops = TorchOps(job.device)
        self.measured = FisherStatistics(job.store.statistics)
        self.compensates = job.compensates(group)
        self.tokens = 0
        """Of the calibration windows."""

    def run(self, rows: Rows | None) -> None:
        """Embedding, layers, head."""
        layers, self.tokens = self.checkpoint.arch.layers, 0 if rows is None else rows.size
        norm = self.checkpoint.tensors["output_norm.weight"]
        check_finite(norm, norm.decode())
        self.embedding(rows)
        done = (self.store.walked(self.group.name, index).done for index in range(layers))
        start = next((index for index, over in enumerate(done) if not over), layers)
        states = None
        if rows is None:
            for index in range(start, layers):
                self.finish(index, self.plain_layer(index), [])
        elif start < layers:
            states = self.start(rows, start)
            for index, losses, notes in self.layers(states, start):
                self.keep(states, index)
                self.finish(index, losses, notes)
        if self.checkpoint.arch.own_head:
            self.head(rows, states)
        for states_of in map(self.states_of, WHICH):
            states_of.drop()
            states_of.drop(layers - 1)

    def layers(self, states: Carried, start: int) -> Iterator[Found]:
        """Round the layers from `start` on; the states are behind a layer when it is yielded."""
        if self.job.streams(self.group):
            yield from streamed_layers(self.job, self.group, states, self.watch, start)
            return
        source = OriginalLayers(self.checkpoint, self.ops.device, streamed=True)
        for layer, hessians in forward(self.ops, source, states, self.observe, start):
            yield layer.index, *self.layer(layer, states, hessians)
            del layer, hessians

    def keep(self, states: Carried, index: int) -> None:
        """Store the states behind a layer, from which a continued run goes on."""
        self.states_of("hidden").save(index, states.values)
        if isinstance(states, ComparedPrefix):
            self.states_of("exact").save(index, states.exact)

    def finish(self, index: int, losses: dict[str, float], notes: list[str]) -> None:
        """Record a layer; a continued run starts behind it."""
        self.store.walked(self.group.name, index).finish(losses=losses, notes=notes)
        for states_of in map(self.states_of, WHICH):
            states_of.drop(index - 1)
        layers, worst = self.checkpoint.arch.layers, max(losses.values())
        self.job.progress(f"layers ({self.group.name})", index + 1, layers, f"loss {worst:.2e}")

    def embedding(self, rows: Rows | None) -> None:
        """The embedding, by what its rows do as inputs and, when tied, as output head."""
        name, note = "token_embd.weight", None
        factor = self.importance(name)
        hessian = self.measured.table(name) if rows is not None else None
        if hessian is not None:
            factor, note = self.recipe.factor(hessian.to(self.ops.device), "token_embd")
        self.quantize_table(name, factor, note)

    def start(self, rows: Rows, index: int) -> Carried:
        """States before layer `index`, on the way that this group takes."""
        hidden, images, workers = self.states("hidden", rows, index), rows.images, self.job.workers
        if not self.group.own_prefix:
            return Carried(hidden, images=images, workers=workers)
        if not self.compensates:
            return Prefix(hidden, images=images, workers=workers)
        exact = self.states("exact", rows, index)
        return ComparedPrefix(hidden, exact, images=images, workers=workers)

    @property
    def ram_limit(self) -> float:
        """GiB of each array of the states."""
        mixtures = any(
            self.checkpoint.arch.layer(i).mixture for i in range(self.checkpoint.arch.layers)
        )
        return self.job.way.states / (1 + self.compensates + mixtures)

    def states_of(self, which: Which) -> StoredStates:
        """Where the group's states are kept."""
        return self.store.states(self.group.name, which)

    def states(self, which: Which, rows: Rows, index: int) -> np.ndarray:
        """States before layer `index`: embedded rows, or what the last one left."""
        shape = (*rows.shape, self.checkpoint.arch.hidden)
        kept = self.states_of(which)
        hidden = kept.allocate(shape, self.ram_limit)
        if index:
            copy(kept.load(index - 1), hidden)
            return hidden
        tensor = self.checkpoint.tensors["token_embd.weight"]
        if self.group.own_prefix and which == "hidden":
            tensor = stored(self.job, self.group.members[0], "token_embd.weight")
        embed(self.checkpoint.arch, tensor, rows, hidden)
        return hidden

    def observe(self, layer: Layer) -> Hessians:
        """What watches a layer."""
        return self.watch(layer, layer.spec.groups, True)

    def watch(self, layer: Layer, groups: tuple[InputGroup, ...], last: bool) -> Hessians:
        """What watches some input groups of a layer; the last time also what experts read."""
        tokens, routed = self.measured.tokens(layer.index), None
        if last and (mixture := layer.spec.mixture):
            inputs = self.states_of("routed").allocate(
                (self.tokens, mixture.router.inputs), self.ram_limit
            )
            routed = Routed(inputs, mixture.router.outputs)
        if self.compensates:
            return Compared(layer.spec, self.ops.device, tokens, routed)
        return Hessians(layer.spec, self.ops.device, tokens, routed, groups)

    def layer(
        self, layer: Layer, states: Carried, observer: Hessians
    ) -> tuple[dict[str, float], list[str]]:
        """Round a layer that was watched for each target; states of its own go on through it."""
        spec, weights = layer.spec, dict(layer.weights)
        layer.weights = weights  # so that a weight is gone when another takes its place
        told, workers = list[str](), self.job.workers
        hessians = observer.mean()
        experts: Mapping[str, torch.Tensor] = {}
        if observer.router:
            share = self.job.calibration.share
            experts = ExpertHessians(self.ops, layer, observer.router, observer.tokens, share)
            told = [f"blk.{layer.index}: {line}" for line in experts.notes()]
        if isinstance(observer, Compared):
            groups = compared(spec)
            compensate(weights, groups, hessians, observer.errors, self.recipe.damp, workers)
        for group in spec.groups:
            if factor := self.importance(f"blk.{layer.index}.{group.linears[0]}.weight"):
                hessians[group.name] = factor.importance
        losses: dict[str, float] = {}
        notes: list[str] = []
        for member in self.group.members:
            where = f"blk.{layer.index}"
            types = {linear: member.types[f"{where}.{linear}.weight"] for linear in spec.linears}
            kept = copied_linears(self.checkpoint.tensors, member, spec, layer.index)
            new, found = rewrite_layer(spec, weights, types, hessians, self.recipe, where, kept)
            known = ChainMap(found, experts)  # type: ignore[arg-type]  # only read
            result: LayerResult = quantize_layer(
                new, spec.groups, types, known, self.recipe, f"{where}.", kept=kept, workers=workers
            )
            self.store.packed(member.target, layer.index).save(result.packed)
            losses |= {f"{member.target.label} {k}": v for k, v in result.losses.items()}
            notes += [f"{member.target.label} {note}" for note in [*told, *result.notes]]
        if isinstance(states, Prefix):
            hessians.clear()
            observer.sums.clear()  # the same ones: their room is needed now
            states.replace(self.ops, self.rounded(layer, result))
        return losses, notes

    def rounded(self, layer: Layer, result: LayerResult) -> Layer:
        """What a layer became for the only target, as the workers take it."""
        if not self.job.workers.reads_packed:
            return Layer(layer.spec, result.values, layer.index)
        names = {name: f"blk.{layer.index}.{name}" for name in layer.spec.shapes}
        packed = {n: stored(self.job, self.group.members[0], names[n]) for n in names}
        return RoundedLayer(layer.spec, {}, layer.index, packed)

    def plain_layer(self, index: int) -> dict[str, float]:
        """Rounding to nearest for each target."""
        checkpoint, where = self.checkpoint, f"blk.{index}."
        spec = checkpoint.arch.layer(index)
        firsts = {linear: group.linears[0] for group in spec.groups for linear in group.linears}
        factors = {name: self.importance(f"{where}{firsts[name]}.weight") for name in firsts}
        losses: dict[str, float] = {}
        for member in self.group.members:
            types = {name: member.types[f"{where}{name}.weight"] for name in firsts}
            tensors = ((name, checkpoint.tensors[where + name]) for name in spec.shapes)
            packed, found = round_layer(tensors, types, self.job.plain, factors, self.ops.device)
            self.store.packed(member.target, index).save(packed)
            losses |= {f"{member.target.label} {k}": loss for k, loss in found.items()}
        return losses

    def importance(self, name: str) -> HessianFactor | None:
        """What the imatrix says of a weight. Linears of a group have equal inputs."""
        if self.job.imatrix is None or name not in self.job.imatrix.means:
            return None
        return HessianFactor(torch.from_numpy(self.job.imatrix.means[name]).to(self.ops.device))

    def quantize_table(
        self, name: str, factor: HessianFactor | None, note: str | None = None
    ) -> None:
        """Round the embedding or the head for every target."""
        for member in self.group.members:
            entry = self.store.table(member.target, name)
            if not entry.done:
                self.job.progress(name, 0, 1, member.target.label)
                tensor = self.checkpoint.tensors[name]
                qtype, device = member.types[name], self.ops.device
                recipe = self.job.plain if factor is None else self.recipe
                rows, _ = round_tensor(tensor, qtype, recipe, factor, device)
                entry.save({"weight": rows})
                entry.finish(notes=[f"{member.target.label} {note}"] if note else [])
                self.job.progress(name, 1, 1, member.target.label)

    def head(self, rows: Rows | None, states: Carried | None) -> None:
        """The untied output head, against the Hessian of the final hidden states."""
        factor, note = self.importance("output.weight"), None
        members = self.group.members
        done = all(self.store.table(m.target, "output.weight").done for m in members)
        if rows is not None and not done:
            hidden = (states or self.start(rows, self.checkpoint.arch.layers)).values
            norm = self.ops.load(self.checkpoint.tensors["output_norm.weight"])
            hessian = head_hessian(self.ops, self.checkpoint.arch, norm, hidden, rows.text)
            factor, note = self.recipe.factor(hessian, "output")
        self.quantize_table("output.weight", factor, note)
