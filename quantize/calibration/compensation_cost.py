"""What error compensation takes (compensation.py)."""

from quantize.calibration.compensation import compared, held_back
from quantize.calibration.layer_cost import at_once
from quantize.run.cost import FLOAT, Cost
from runtime.archs import LayerSpec


def beside_bytes(spec: LayerSpec, rows: int, length: int) -> int:
    """Bytes that a Compared keeps beside its Hessians: moments, windows held back, and the last
    inputs of both models."""
    widths = sum(group.width for group in compared(spec))
    read = at_once(rows, length) * (widths + spec.groups[-1].width)
    return summed_bytes(spec, len(held_back(rows)) * length) + FLOAT * read


def summed_bytes(spec: LayerSpec, held: int) -> int:
    """Bytes of moments, and of what is kept of so many tokens of windows held back."""
    numbers, last = 2 * sum(group.width for group in compared(spec)), spec.groups[-1]
    if spec.output_factor:
        numbers += spec.linears[last.linears[0]].outputs - last.width
    return FLOAT * (sum(moment_sizes(spec).values()) + held * numbers)


def moment_sizes(spec: LayerSpec) -> dict[str, int]:
    """Numbers of the moment of each compared input group."""
    sizes = {group.name: group.width**2 for group in compared(spec)}
    if spec.output_factor:
        last = spec.groups[-1]
        sizes[last.name] = spec.linears[last.linears[0]].outputs * last.width
    return sizes


def compensation_cost(spec: LayerSpec, tokens: int) -> Cost:
    """Of sums of the errors and of `compensate` for one layer.

    The factor of a group's Hessian takes the place of its moment; beside it are the changes of its
    linears, of the last one also what it is made of.
    """
    memory, flops, sizes = 0, 0.0, moment_sizes(spec)
    for group in compared(spec):
        rows = [spec.linears[linear].outputs for linear in group.linears]
        changes = (sum(rows) + 2 * max(rows)) * group.width
        memory = max(memory, changes + max(0, group.width**2 - sizes[group.name]))
        flops += 2 * tokens * group.width**2 + group.width**3 / 3 + 4 * sum(rows) * group.width**2
    return Cost(memory=FLOAT * memory, flops=flops)
