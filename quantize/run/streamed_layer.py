"""One layer on a way that holds little of it (way.py): its linears are decoded some rows at a time,
and Hessians are there for some input groups at a time."""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from quantize.calibration.experts import ExpertHessians
from quantize.calibration.hessian import Hessians
from quantize.calibration.rows import batches
from quantize.calibration.stream import Carried, OriginalLayers, Prefix, Weights
from quantize.calibration.streamed import StreamingOps
from quantize.plan import Assignment
from quantize.run.copied import copied_linears
from quantize.run.job import Group, Job
from quantize.run.recipe import Spare
from quantize.run.rewriting import rewrite_layer
from quantize.run.rounding import quantize_layer
from quantize.run.rounding_cost import in_place
from quantize.run.way import passes
from runtime.archs import InputGroup
from runtime.backends.torch import TorchOps
from runtime.forward import Layer
from runtime.memory import drop_pages

Watch = Callable[[Layer, tuple[InputGroup, ...], bool], Hessians]
"""Makes the observer of some input groups of a layer, and says whether it is the last of them."""
SPARE = "scratch/hessian"
"""Where a Hessian is kept while its factor takes its place."""
PIECE = 1 << 24
"""Numbers of a Hessian that are copied at a time."""


Found = tuple[int, dict[str, float], list[str]]
"""A layer that was rounded, its losses and notes."""


@dataclass
class Part:
    """What became of a layer so far for one target."""

    member: Assignment
    weights: Weights
    """With what rewrites did to them."""
    packed: dict[str, np.ndarray] = field(default_factory=dict)
    values: Weights = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def streamed_layers(
    job: Job, group: Group, states: Carried, watch: Watch, start: int
) -> Iterator[Found]:
    """Round the layers from `start` on; the states are behind a layer when it is yielded."""
    ops = StreamingOps(job.device)
    source = OriginalLayers(job.checkpoint, ops.device, streamed=True, linears=True)
    for index in range(start, job.checkpoint.arch.layers):
        yield index, *streamed_layer(job, group, ops, source.layer(index), states, watch)


def streamed_layer(
    job: Job, group: Group, ops: TorchOps, layer: Layer, states: Carried, watch: Watch
) -> tuple[dict[str, float], list[str]]:
    """Round a layer for each target of a group, store it, and take the states behind it.

    Returns losses and notes, as `Pass.layer` does, and stores the same bytes.
    """
    spec, told = layer.spec, list[str]()
    parts = [Part(member, dict(layer.weights)) for member in group.members]
    turns = passes(spec, job.way, job.recipe)
    for groups in turns:
        last = groups is turns[-1]
        observer = watch(layer, groups, last)
        if last:
            states.advance(ops, layer, observer)
        else:
            states.look(ops, layer, observer)
        hessians, experts = observer.mean(), dict[str, torch.Tensor]()
        observer.sums.clear()  # the same ones
        if last and observer.router:
            share = job.calibration.share
            experts = ExpertHessians(ops, layer, observer.router, observer.tokens, share)  # type: ignore[assignment]  # only read
            told = [f"blk.{layer.index}: {line}" for line in experts.notes()]  # type: ignore[attr-defined]
            groups = (*groups, *(g for g in spec.groups if g.expert is not None))
        for part in parts:
            round_part(job, group, layer, part, groups, hessians, experts, last)
        del observer, hessians, experts
    job.store.drop(f"{SPARE}.npy")
    for part in parts:
        job.store.packed(part.member.target, layer.index).save(part.packed)
    if isinstance(states, Prefix):
        states.replace(ops, Layer(spec, parts[0].values, layer.index))
    label = {id(part): part.member.target.label for part in parts}
    losses = {f"{label[id(part)]} {k}": v for part in parts for k, v in part.losses.items()}
    return losses, [f"{label[id(p)]} {note}" for p in parts for note in [*told, *p.notes]]


def round_part(
    job: Job,
    group: Group,
    layer: Layer,
    part: Part,
    groups: tuple[InputGroup, ...],
    hessians: MutableMapping[str, torch.Tensor],
    experts: Mapping[str, torch.Tensor],
    last: bool,
) -> None:
    """Round the linears of some input groups; with the last ones go norms and biases."""
    spec, member, where = layer.spec, part.member, f"blk.{layer.index}"
    types = {linear: member.types[f"{where}.{linear}.weight"] for linear in spec.linears}
    kept = copied_linears(job.checkpoint.tensors, member, spec, layer.index)
    weights, found = rewrite_layer(
        spec, part.weights, types, dict(hessians), job.recipe, where, kept
    )
    part.weights = weights
    shared = found if len(group.members) > 1 else hessians
    if shared is hessians:  # nobody else needs them: theirs is the only reference
        hessians.update(found)
        del found
    names = {linear for g in groups for linear in g.linears}
    chosen = {
        name: weight
        for name, weight in weights.items()
        if name.removesuffix(".weight") in names
        or (last and name.removesuffix(".weight") not in spec.linears)
    }
    result = quantize_layer(
        chosen,
        groups,
        types,
        ChainMap(shared, experts),  # type: ignore[arg-type]  # experts are only read
        job.recipe,
        f"{where}.",
        kept={linear: tensor for linear, tensor in kept.items() if linear in names},
        spare=spare(job) if in_place(job.recipe, group.members) else None,
    )
    part.packed |= result.packed
    part.values |= result.values
    part.losses |= result.losses
    part.notes += result.notes


def spare(job: Job) -> Spare:
    """Keeps a Hessian on disk while its factor takes its place."""

    def keep(hessian: torch.Tensor) -> Callable[[torch.Tensor], None]:
        shape = tuple(hessian.shape)
        file: Any = job.store.allocate(SPARE, shape, 0)
        copy(hessian.numpy(force=True), file)

        def restore(into: torch.Tensor) -> None:
            for here in batches(len(file), rows_of(shape)):
                into[here] = torch.from_numpy(np.array(file[here]))
                drop_pages([file])

        return restore

    return keep


def copy(source: np.ndarray, into: np.ndarray) -> None:
    """Copy an array, of which either may lie on disk, some rows at a time."""
    for here in batches(len(source), rows_of(source.shape)):
        into[here] = source[here]
        drop_pages([source, into])


def rows_of(shape: tuple[int, ...]) -> int:
    """How many of the first axis are copied at a time."""
    return max(1, PIECE // int(np.prod(shape[1:], dtype=np.int64)))
