"""What a walk over the layers takes (sequential.py): tables, and one layer after the other."""

from dataclasses import replace

from quantize.calibration.compensation_cost import beside_bytes, compensation_cost
from quantize.calibration.experts import expert_bytes
from quantize.calibration.hessian_cost import hessian_flops, plain_hessian_bytes
from quantize.calibration.layer_cost import activation_bytes, at_once, forward_flops, streamed_bytes
from quantize.calibration.routed import routed_bytes
from quantize.plan import Assignment
from quantize.run.cost import FLOAT, Cost, in_memory, in_turn, on_disk
from quantize.run.data_free import tensor_cost
from quantize.run.job import Group, Job
from quantize.run.rounding_cost import factors, layer_cost
from quantize.run.stored import copy_bytes
from quantize.run.streamed_cost import packed_bytes, streamed_layer_cost
from runtime.archs import LayerSpec
from runtime.tensor import stored_bytes


def walk_cost(job: Job, group: Group) -> Cost:
    """Of one walk for the targets of a group, with the tables before and after it."""
    arch = job.checkpoint.arch
    copies = sum(copy_bytes(job.checkpoint, member) for member in group.members)
    states, disk = 0, copies
    if group.calibrated:
        sets = 2 if job.compensates(group) else 1
        size = sets * FLOAT * job.calibration.tokens * arch.hidden
        routed = max(
            routed_bytes(arch.layer(index), job.calibration.tokens) for index in range(arch.layers)
        )
        states = in_memory(size + routed, job.way.states)
        # those behind a layer are written while those behind the last one are still there
        disk += 2 * size + on_disk(size + routed, job.way.states)
    costs = [table_cost(job, m, "token_embd.weight", 0) for m in group.members]
    for index in range(arch.layers):
        costs.append(layer_at(job, group, index, states))
    if arch.own_head:
        costs += [table_cost(job, m, "output.weight", states) for m in group.members]
    total = in_turn(costs)
    return replace(total, disk=disk + total.disk, kept=copies)


def table_cost(job: Job, member: Assignment, name: str, states: int) -> Cost:
    """Of the embedding or the head for one target, beside hidden states of so many bytes."""
    arch, source = job.checkpoint.arch, job.checkpoint.tensors.nbytes(name)
    known = job.calibration.windows > 0 or name == "output.weight"
    known = known and not member.is_float and job.recipe.method.calibrated
    recipe = job.recipe if known else job.plain
    factored, shape = known and factors(recipe), arch.shapes()[name]
    found = tensor_cost(shape, source, member.types[name], recipe, factored, job.device)
    hessians = 3 * FLOAT * arch.hidden**2 if known else 0  # it, its factor, and a copy
    memory = states + hessians + found.memory
    return Cost(memory=memory, what=name, flops=found.flops, seconds=found.seconds)


def layer_at(job: Job, group: Group, index: int, states: int) -> Cost:
    """Of one layer for every target of a group, beside hidden states of so many bytes."""
    spec = job.checkpoint.arch.layer(index)
    if job.streams(group) and group.calibrated:
        return streamed_layer_cost(job, group, index, states)
    if not group.calibrated:
        return in_turn(plain_layer_cost(job, m, spec, index) for m in group.members)
    rows, length, tokens = job.calibration.rows, job.calibration.length, job.calibration.tokens
    compensates = job.compensates(group)
    ordered = any(qtype.ordered for m in group.members for qtype in m.types.values())
    rounding = layer_cost(spec, job.recipe, job.device, ordered)
    there = states + streamed_bytes(spec) + plain_hessian_bytes(spec)
    summing = activation_bytes(spec, at_once(rows, length))
    times = 2 if group.own_prefix else 1
    flops = hessian_flops(spec, tokens) + len(group.members) * rounding.flops
    if compensates:
        compensation = compensation_cost(spec, tokens)
        summing = beside_bytes(spec, rows, length) + max(summing, compensation.memory)
        flops += compensation.flops
        times = 3
    # experts are rounded last: only then is most of what they become there (rounding.py)
    packed = max(packed_bytes(member, spec, index, experts=False) for member in group.members)
    work = max(summing, rounding.memory + packed, experts_bytes(group, spec, index))
    if spec.mixture:  # experts compute again what their Hessians are made of
        times += len(group.members)
    flops += times * forward_flops(spec, tokens)
    seconds = len(group.members) * rounding.seconds
    return Cost(memory=there + work, what=f"blk.{index}", flops=flops, seconds=seconds)


def experts_bytes(group: Group, spec: LayerSpec, index: int) -> int:
    """Bytes that rounding the experts of a layer takes beside the layer and the other Hessians.

    The rounded layer stays; the Hessians of one expert are there with a factor and a copy, and the
    rows of the largest tensor twice, when those of all experts are put together.
    """
    if not spec.mixture:
        return 0
    packed = max(packed_bytes(member, spec, index) for member in group.members)
    tensors = [part for part in spec.linears.values() if part.experts]
    largest = max(
        stored_bytes(member.types[f"blk.{index}.{part.name}.weight"], part.shape)
        for member in group.members
        for part in tensors
    )
    return streamed_bytes(spec) + 3 * expert_bytes(spec) + packed + largest


def plain_layer_cost(job: Job, member: Assignment, spec: LayerSpec, index: int) -> Cost:
    """Of a layer without calibration: one tensor at a time beside what became of the others."""
    costs = []
    for linear, part in spec.linears.items():
        name = f"blk.{index}.{linear}.weight"
        source = job.checkpoint.tensors.nbytes(name)
        costs.append(
            tensor_cost(part.shape, source, member.types[name], job.plain, False, job.device)
        )
    found = in_turn(costs)
    memory = found.memory + packed_bytes(member, spec, index)
    return Cost(memory=memory, what=f"blk.{index}", flops=found.flops)
