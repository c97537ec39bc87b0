"""Types of an automatic target: what sensitivity.py predicts, spent within the artifact's bytes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from export import CONTAINERS
from export.base import check_joined
from quantize.allocation.allocate import Choice, Choices, Step, at_most, frontier, within
from quantize.plan import (
    Allocation,
    Assignment,
    Rule,
    Target,
    fallback_sentences,
    matrix_widths,
    narrow,
    ruled,
)
from runtime.archs import Arch
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import file_bytes, is_matrix

CAUTION = 0.6
"""Part of max_kl that may be predicted: of small types the measured loss is up to 1/0.6 of that."""

Types = dict[str, QuantType]
Size = Callable[[Types], int]
"""Types of the 2-D weights -> bytes of the artifact on disk, exactly."""
Predictions = Mapping[str, Mapping[str, float]]
"""Tensor -> type -> KL in nats a token."""


@dataclass(frozen=True)
class Goal:
    """What automatic targets are to reach; the first that is given counts."""

    size: int | None = None
    """Most bytes of the artifact."""
    bits: float | None = None
    """Average bits per weight at most, for its tensors."""
    kl: float | None = None
    """Most loss, in nats a token."""


def allocate(
    goal: Goal,
    target: Target,
    arch: Arch,
    rules: tuple[Rule, ...],
    predictions: Predictions,
    size: Size,
) -> Assignment:
    """The types with least predicted KL in the goal's bytes or bits, or else the smallest that are
    safely predicted to lose at most its KL.

    `size` counts the sentences of `rule_fallbacks`, which the artifact will hold. Raises
    EdgequantError with what is feasible when the target is out of reach.
    """
    choices = choices_of(target, arch, rules, predictions)
    path = frontier(choices)
    if goal.size is not None:
        step = _by_size(goal.size, target, choices, path, size)
    elif goal.bits is not None:
        step = _by_bits(goal.bits, target, choices, path, arch)
    else:
        step = _by_loss(goal.kl or 0.0, target, choices, path, size)
    types, rest = types_of(step), size(types_of(path[0])) - path[0].bytes
    points = tuple((point.bytes + rest, point.kl) for point in path)
    told = rule_fallbacks(target, arch, rules)
    return Assignment(target, types, told, Allocation(size(types), step.kl, points))


def choices_of(
    target: Target, arch: Arch, rules: tuple[Rule, ...], predictions: Predictions
) -> Choices:
    """What each tensor may become: all that the container holds, or what the last rule says."""
    container = CONTAINERS[target.container]
    out: dict[str, list[Choice]] = {}
    for name, shape in arch.shapes().items():
        if not is_matrix(shape):
            continue
        known = (QUANT_TYPES[type_name] for type_name in predictions[name])
        types = [q.name for q in known if container.holds(q) and container.mixes(q)]
        if wanted := ruled(name, rules, container):
            types = [narrow(wanted, shape[-1], container).name]
        elif container.table_type and not name.startswith("blk."):
            types = [container.table_type]
        elif arch.precise(name):
            types = ["F32"]
        out[name] = [
            Choice(
                type_name, file_bytes(QUANT_TYPES[type_name], shape), predictions[name][type_name]
            )
            for type_name in types
        ]
    joined = container.joined(arch)
    for parts in joined:  # a rule for one of them alone leaves nothing that all may be
        if not set.intersection(*({c.type_name for c in out[part]} for part in parts)):
            check_joined({part: QUANT_TYPES[out[part][0].type_name] for part in parts}, [parts])
    return fused(out, [*joined, *(one_input(arch) if container.fused else ())])


def one_input(arch: Arch) -> Iterator[tuple[str, ...]]:
    """Weights that read the same input."""
    for index in range(arch.layers):
        for group in arch.layer(index).groups:
            yield tuple(f"blk.{index}.{linear}.weight" for linear in group.linears)


def fused(choices: Choices, together: Iterable[tuple[str, ...]]) -> Choices:
    """The same with weights of one type under one key, their names with spaces between."""
    out = dict(choices)
    for names in together:
        if len(names) < 2 or not set(names) <= out.keys():
            continue  # of an expert's linears the first one stands for all
        of = [{choice.type_name: choice for choice in out.pop(name)} for name in names]
        shared = [kind for kind in of[0] if all(kind in each for each in of)]
        out[" ".join(names)] = [
            Choice(kind, sum(c[kind].bytes for c in of), sum(c[kind].kl for c in of))
            for kind in shared
        ]
    return out


def rule_fallbacks(target: Target, arch: Arch, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """One sentence for each group of tensors that could not have the type that a rule says."""
    container = CONTAINERS[target.container]
    said = {name: ruled(name, rules, container) for name in matrix_widths(arch)}
    wanted = {name: type_name for name, type_name in said.items() if type_name}
    return fallback_sentences(arch, wanted, container)


def types_of(step: Step) -> Types:
    """The types that a step names."""
    return {
        name: QUANT_TYPES[type_name]
        for names, type_name in step.types.items()
        for name in names.split()
    }


def _by_size(limit: int, target: Target, choices: Choices, path: list[Step], size: Size) -> Step:
    """The least loss whose artifact takes at most `limit` bytes."""
    least, most = (size(types_of(path[at])) for at in (0, -1))
    if not least <= limit <= most:
        raise InputError(
            f"--target-size {limit:,} bytes is out of reach: {target.label} of this model takes "
            f"{least:,} to {most:,} bytes; choose a size from there."
        )
    best, budget, tried = path[0], limit - (least - path[0].bytes), set[int]()
    while budget not in tried:  # the rest of the artifact, padding above all, depends on the types
        tried.add(budget)
        step = within(choices, max(budget, path[0].bytes), path)
        spare = limit - size(types_of(step))
        if spare >= 0 and step.kl < best.kl:
            best = step
        budget = step.bytes + spare
    return best


def _by_bits(bits: float, target: Target, choices: Choices, path: list[Step], arch: Arch) -> Step:
    """The least loss whose 2-D weights take at most `bits` each on average."""
    shapes = arch.shapes().values()
    weights = sum(math.prod(shape) for shape in shapes if is_matrix(shape))
    least, most = (8 * path[at].bytes / weights for at in (0, -1))
    if not least <= bits <= most:
        raise InputError(
            f"--target-bpw {bits:g} is out of reach: {target.label} of this model takes "
            f"{math.ceil(100 * least) / 100} to {math.floor(100 * most) / 100} bits a weight; "
            "choose from there."
        )
    return within(choices, int(bits * weights / 8), path)


def _by_loss(limit: float, target: Target, choices: Choices, path: list[Step], size: Size) -> Step:
    """The smallest types that are safely predicted to lose at most `limit` nats a token."""
    try:
        return at_most(choices, CAUTION * limit)
    except ValueError:
        # a little is added, so that the figure as it is rounded can be asked for
        raise InputError(
            f"--max-kl {limit:g} is out of reach: {target.label} of this model is predicted "
            f"to lose up to {1.005 * path[-1].kl / CAUTION:.3g} nats a token even at "
            f"{size(types_of(path[-1])):,} bytes; allow more."
        ) from None
