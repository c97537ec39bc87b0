"""What tuning takes (tune.py): memory, disk, and operations."""

from math import prod

from quantize.calibration.layer_cost import BACKWARD, backward_bytes, forward_flops, layer_bytes
from quantize.plan import Assignment
from quantize.run.cost import FLOAT, Cost, in_memory, in_turn, on_disk
from quantize.run.job import Job
from quantize.run.stored import copy_bytes
from quantize.tuning.tune import EVERY, HELD_BACK, KEPT, WINDOWS
from runtime.archs import LayerSpec
from runtime.tensor import stored_bytes

DELTAS = 7
"""Numbers for everything that moves: KEPT, the leaves, their gradient, and the next deltas."""


def tuning_cost(job: Job) -> Cost:
    """Of `tune_targets`: the states of the original, then one target after the other."""
    left = [member for member in job.assignments if not member.is_float]
    if not left or not job.tuning_steps:
        return Cost()
    states = FLOAT * job.calibration.tokens * job.checkpoint.arch.hidden
    kept = in_turn(target_cost(job, member) for member in left)
    taught = sum(forward_flops(spec, job.calibration.tokens) for spec in specs(job))
    return Cost(
        memory=in_memory(states, job.way.states) + kept.memory,
        what="tuning",
        disk=on_disk(states, job.way.states) + kept.disk,
        kept=kept.kept,
        flops=taught + kept.flops,
    )


def specs(job: Job) -> list[LayerSpec]:
    """The layers of the model."""
    arch = job.checkpoint.arch
    return [arch.layer(index) for index in range(arch.layers)]


def moving_bytes(job: Job, member: Assignment) -> int:
    """Bytes of one float32 for everything that moves in the layers; see `Part.free`."""
    count = 0
    for name, shape in job.checkpoint.arch.shapes().items():
        if name.startswith("blk."):
            qtype = member.types.get(name)
            parts = len(qtype.linear) * prod(shape) // qtype.size if qtype else prod(shape)
            count += parts
    return FLOAT * count


def target_cost(job: Job, member: Assignment) -> Cost:
    """Of tuning one target: a step goes there and back, a look at windows held back only there."""
    arch, ask, steps = job.checkpoint.arch, job.calibration, job.tuning_steps
    layers, moving = specs(job), moving_bytes(job, member)
    held, stepped = max(1, ask.rows // HELD_BACK), min(WINDOWS, ask.rows) * ask.length
    looked = FLOAT * held * ask.length * arch.hidden
    heads = stored_bytes(member.types[arch.head], arch.shapes()[arch.head])
    heads += job.checkpoint.tensors.nbytes(arch.head)
    states = FLOAT * (arch.layers + 1) * stepped * arch.hidden
    # codes and values of a layer, and a copy of both while one tensor is unpacked
    layer = max(3 * layer_bytes(spec) + backward_bytes(spec, stepped) for spec in layers)
    there, head = sum(forward_flops(spec, 1) for spec in layers), 2.0 * arch.vocab * arch.hidden
    flops = steps * stepped * ((1 + BACKWARD) * there + 4 * head)
    flops += (steps // EVERY + 1) * held * ask.length * (there + 3 * head)
    copies = copy_bytes(job.checkpoint, member)
    state = len(KEPT) * moving
    return Cost(
        memory=in_memory(looked, job.way.states) + heads + DELTAS * moving + states + layer,
        # a new state is written beside the old, and the tuned copy beside the last state
        disk=on_disk(looked, job.way.states) + state + max(state, copies),
        kept=copies,
        flops=flops,
    )
