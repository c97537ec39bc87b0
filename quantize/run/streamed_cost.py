"""What a layer takes whose linears are decoded some rows at a time (streamed_layer.py)."""

import math

from quantize.calibration.experts import expert_bytes
from quantize.calibration.hessian_cost import hessian_flops
from quantize.calibration.layer_cost import activation_bytes, at_once, forward_flops
from quantize.calibration.streamed import COPIES, block_bytes
from quantize.plan import Assignment
from quantize.run.cost import FLOAT, Cost
from quantize.run.job import Group, Job
from quantize.run.pieces import CHUNK
from quantize.run.rounding_cost import in_place, layer_cost, weight_cost
from quantize.run.way import passes, square_bytes
from runtime.archs import InputGroup, LayerSpec
from runtime.tensor import Shape, stored_bytes


def packed_bytes(member: Assignment, spec: LayerSpec, index: int, experts: bool = True) -> int:
    """Bytes of the rounded linears of a layer, with those of `experts` or without."""
    counted = [part for part in spec.linears.values() if experts or not part.experts]
    types = {part.name: member.types[f"blk.{index}.{part.name}.weight"] for part in counted}
    return sum(stored_bytes(types[part.name], part.shape) for part in counted)


def streamed_layer_cost(job: Job, group: Group, index: int, states: int) -> Cost:
    """Of one layer for every target of a group, beside hidden states of so many bytes."""
    spec, recipe, tokens = job.checkpoint.arch.layer(index), job.recipe, job.calibration.tokens
    turns = passes(spec, job.way, recipe)
    dense = [part.shape for part in spec.linears.values() if not part.experts]
    sources = [source_bytes(job, f"blk.{index}.{name}.weight") for name in spec.linears]
    block = max(map(block_bytes, dense)) + max(sources)
    acting = activation_bytes(spec, at_once(job.calibration.rows, job.calibration.length)) + block
    most, done = 0, 0
    for groups in turns:
        work = max(part_bytes(job, group, spec, part) for part in groups)
        work = max(work, scaled_bytes(job, spec, groups)) + max(sources)
        most = max(
            most,
            done + square_bytes(groups) + max(acting, work + rounded(group, spec, index, groups)),
        )
        done += rounded(group, spec, index, groups)
    if spec.mixture:
        packed = sum(packed_bytes(member, spec, index) for member in group.members)
        matrices = [shape[-2:] for shape in spec.shapes.values() if len(shape) > 2]
        largest = max(
            stored_bytes(member.types[f"blk.{index}.{part.name}.weight"], part.shape)
            for member in group.members
            for part in spec.linears.values()
            if part.experts
        )
        decoded = FLOAT * 2 * sum(map(math.prod, matrices))
        most = max(most, decoded + 3 * expert_bytes(spec) + packed + largest)
    if group.own_prefix:
        most = max(most, done + acting)
    vectors = FLOAT * sum(math.prod(shape) for shape in spec.shapes.values() if len(shape) == 1)
    rounding = layer_cost(spec, recipe, job.device)
    times = len(turns) + group.own_prefix + bool(spec.mixture) * len(group.members)
    flops = hessian_flops(spec, tokens) + len(group.members) * rounding.flops
    flops += times * forward_flops(spec, tokens)
    return Cost(
        memory=states + vectors + most,
        what=f"blk.{index}.{widest(spec).linears[0]}",
        disk=spare_bytes(job, group, spec),
        flops=flops,
        seconds=len(group.members) * rounding.seconds,
    )


def widest(spec: LayerSpec) -> InputGroup:
    """The input group whose Hessian is largest."""
    return max(spec.groups, key=lambda group: group.width)


def spare_bytes(job: Job, group: Group, spec: LayerSpec) -> int:
    """Bytes on disk of a Hessian whose factor takes its place."""
    groups = [part for part in spec.groups if part.expert is None]
    return max(map(square_of, groups)) if in_place(job.recipe, group.members) else 0


def square_of(group: InputGroup) -> int:
    """Bytes of a Hessian."""
    return square_bytes((group,))


def source_bytes(job: Job, name: str) -> int:
    """Bytes that a weight takes beside its decoded rows: floats lie in mapped files, and their
    pages are given back."""
    tensors = job.checkpoint.tensors
    return 0 if tensors.qtype(name).is_float else tensors.nbytes(name)


def rounded(group: Group, spec: LayerSpec, index: int, groups: tuple[InputGroup, ...]) -> int:
    """Bytes that the linears of some input groups become, for all targets."""
    names = [linear for part in groups for linear in part.linears]
    return sum(
        stored_bytes(member.types[f"blk.{index}.{name}.weight"], spec.linears[name].shape)
        for member in group.members
        for name in names
    )


def part_bytes(job: Job, group: Group, spec: LayerSpec, part: InputGroup) -> int:
    """Bytes of rounding the linears of an input group beside its Hessian."""
    ordered = any(q.ordered for member in group.members for q in member.types.values())
    factored = job.recipe.method.factor is not None
    square = 0 if in_place(job.recipe, group.members) else square_of(part)
    return factored * square * (1 + 2 * ordered) + max(
        chunk_bytes(spec.linears[linear].shape, job) for linear in part.linears
    )


def chunk_bytes(shape: Shape, job: Job) -> int:
    """Bytes of the rows that are decoded, rounded and compared at a time."""
    chunk = min(math.prod(shape), max(CHUNK, shape[-1]))
    rounding = weight_cost(shape, job.recipe, job.recipe.method.factor is not None, job.device)
    return FLOAT * COPIES * chunk + rounding.memory


def scaled_bytes(job: Job, spec: LayerSpec, groups: tuple[InputGroup, ...]) -> int:
    """Bytes of looking for scales: the linears of an input group, the squares of the largest, and
    the Hessian in two copies."""
    if not (job.recipe.method.scales or job.recipe.rewrites):
        return 0
    found = 0
    for group in groups:
        sizes = [math.prod(spec.linears[name].shape) for name in group.linears]
        if group.fold:
            found = max(found, sum(sizes) + max(sizes) + 2 * group.width**2)
    return FLOAT * found
