"""The tensors of a rounded target, read back from the work folder."""

from collections.abc import Iterator

from quantize.checkpoint import Checkpoint
from quantize.plan import Assignment
from quantize.run.act_order import order_name
from quantize.run.job import Job
from quantize.run.resume import ENTRY
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, numpy_of
from runtime.tensor import Tensor, stored_bytes


def stored(job: Job, member: Assignment, name: str) -> Tensor:
    """One finished tensor of a target; tuned, where it was (tune.py)."""
    store, target, original = job.store, member.target, job.checkpoint.tensors
    shape = original.shapes[name]
    accepted = store.tuned(target).facts.get("accepted", False)
    if name.startswith("blk."):
        _, index, rest = name.split(".", 2)
        layer = store.tuned_layer if accepted else store.packed
        data, order = layer(target, int(index)).load(rest), None
        qtype = member.types.get(name, QUANT_TYPES["F32"])
        if qtype.ordered:
            order = store.packed(target, int(index)).load(order_name(rest))
        return Tensor(name, shape, qtype, data, order=order)
    if name in member.types:
        return Tensor(name, shape, member.types[name], store.table(target, name).load("weight"))
    if accepted:
        data = store.tuned_table(target, name).load("weight")
        return Tensor(name, shape, QUANT_TYPES["F32"], data)
    return Tensor.dense(name, numpy_of(original[name].decode()))


def artifact_tensors(job: Job, member: Assignment) -> Iterator[Tensor]:
    """Every tensor of a target in file order, one at a time.

    Raises InputError at the end, and forgets the work, where the checkpoint changed meanwhile.
    """
    for name in job.checkpoint.tensors:
        yield stored(job, member, name)
    try:
        job.inputs.refuse_changed()
    except InputError:
        job.store.restart()
        raise


def weight_bytes(checkpoint: Checkpoint, member: Assignment) -> int:
    """Bytes of all tensors of a target; the container adds its header and the tokenizer."""
    return sum(
        stored_bytes(member.types.get(name, QUANT_TYPES["F32"]), shape)
        for name, shape in checkpoint.tensors.shapes.items()
    )


def copy_bytes(checkpoint: Checkpoint, member: Assignment) -> int:
    """Bytes that they take in the work folder."""
    return weight_bytes(checkpoint, member) + ENTRY * len(checkpoint.tensors.shapes)
