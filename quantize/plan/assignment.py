"""From a plan to the type of every tensor: preset, rules, and what fits a row."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from export import CONTAINERS, Container
from export.base import check_joined
from quantize.plan.plan import Plan
from quantize.plan.rule import Rule
from quantize.plan.target import Target
from runtime.archs import Arch
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import is_matrix
from runtime.vision.vision import Vision


@dataclass(frozen=True)
class Allocation:
    """What was known of an automatic target when its types were chosen."""

    bytes: int
    """Of the whole artifact."""
    kl: float
    """Predicted, nats a token."""
    frontier: tuple[tuple[int, float], ...]
    """Bytes of the artifact, up to the padding between its tensors, and least predicted KL, from
    the smallest to the largest."""


@dataclass(frozen=True)
class Assignment:
    """The types of one target's tensors."""

    target: Target
    types: dict[str, QuantType]
    """Every 2-D weight, in file order. Norms, biases and heads that score are always F32."""
    fallbacks: tuple[str, ...] = field(default=())
    """One sentence for each group of tensors that could not have the type that was asked for."""
    allocation: Allocation | None = None
    """For an automatic target."""
    copied: frozenset[str] = frozenset()
    """Weights that are not rounded: they have their type in the source already, or lie on its grid
    (quantize/run/copied.py)."""
    on_grid: frozenset[str] = frozenset()
    """Those of them that lie on a grid."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is told of the types: fallbacks, and which weights are copied."""
        ways = (
            (self.copied - self.on_grid, "copied from the source, whose type they have,"),
            (self.on_grid, "on a grid of their type in the source, taken as they are"),
        )
        told = [
            f"{len(names)} of {len(self.types)} weights are {what} and not rounded again: "
            f"{self._kinds(names)}"
            for names, what in ways
            if names
        ]
        return (*self.fallbacks, *told)

    def _kinds(self, names: frozenset[str]) -> str:
        """Types of some weights, and which parts of a layer have them."""
        kinds: dict[str, set[str]] = {}
        for name in names:
            kinds.setdefault(self.types[name].name, set()).add(name.split(".")[-2])
        return "; ".join(f"{kind} {', '.join(sorted(of))}" for kind, of in sorted(kinds.items()))

    @property
    def is_float(self) -> bool:
        """Whether nothing is rounded to codes: all are floats, or copied."""
        return all(q.is_float or name in self.copied for name, q in self.types.items())

    @property
    def bits(self) -> float:
        """Least bits a weight of any decoder linear."""
        return min(b.bits for name, b in self.types.items() if name.startswith("blk."))


def assign(target: Target, arch: Arch, rules: tuple[Rule, ...]) -> Assignment:
    """Preset, then rules (the last match wins), then narrowing where a row does not fit the blocks.

    A rule whose type this container cannot hold leaves it alone (see check_rules).
    """
    container = CONTAINERS[target.container]
    preset = container.presets[target.preset]
    widths = matrix_widths(arch)
    wanted = {name: ruled(name, rules, container) or preset.choose(arch, name) for name in widths}
    types = fitted(widths, wanted, container)
    check_joined(types, container.joined(arch))
    return Assignment(target, types, fallback_sentences(arch, wanted, container))


def fitted(
    widths: Mapping[str, int], wanted: Mapping[str, str], container: Container
) -> dict[str, QuantType]:
    """The type wanted of each weight, or the next best one that fits its rows; in a container whose
    packed linears are of one type, one that fits the rows of all."""
    own = {name: narrow(type_name, widths[name], container) for name, type_name in wanted.items()}
    packed = [name for name, qtype in own.items() if not qtype.is_float]
    if not (container.uniform and packed):
        return own
    shared = math.gcd(*(widths[name] for name in packed))
    return own | {name: narrow(wanted[name], shared, container) for name in packed}


def refused_types(assignment: Assignment, arch: Arch, rules: tuple[Rule, ...]) -> dict[str, str]:
    """Weights that could not have the type that a rule or the preset says, with that type."""
    target = assignment.target
    container = CONTAINERS[target.container]
    preset = None if target.automatic else container.presets[target.preset]
    found = {}
    for name, qtype in assignment.types.items():
        wanted = ruled(name, rules, container) or (preset and preset.choose(arch, name))
        if wanted and wanted != qtype.name:
            found[name] = wanted
    return found


def matrix_widths(arch: Arch) -> dict[str, int]:
    """Columns of every 2-D weight that may be rounded, in file order: a head that scores is not."""
    kept = arch.score_head.shapes if arch.score_head else ()
    shapes = arch.shapes().items()
    return {n: shape[-1] for n, shape in shapes if is_matrix(shape) and n not in kept}


TOWER = "visual."
"""What names of a vision tower's tensors begin with in rules."""


def ruled(name: str, rules: tuple[Rule, ...], container: Container) -> str | None:
    """The type that the last rule for a tensor says, of those that the container can hold."""
    kinds = [
        rule.type_name
        for rule in rules
        if re.search(rule.pattern, name) and container.holds(QUANT_TYPES[rule.type_name])
    ]
    return kinds[-1] if kinds else None


def fallback_sentences(
    arch: Arch, wanted: Mapping[str, str], container: Container
) -> tuple[str, ...]:
    """One for each group of tensors whose rows do not fit the blocks of the type wanted."""
    widths = matrix_widths(arch)
    narrowed: dict[tuple[str, str, int], list[str]] = {}
    for name, qtype in fitted(widths, wanted, container).items():
        if qtype.name != wanted[name]:
            narrowed.setdefault((wanted[name], qtype.name, widths[name]), []).append(name)
    return tuple(
        f"{len(names)} tensors with rows of {cols} cannot be {type_name} "
        f"({_reason(QUANT_TYPES[type_name], cols)}) and became {got}: {_span(names)}"
        for (type_name, got, cols), names in narrowed.items()
    )


def _reason(qtype: QuantType, cols: int) -> str:
    """Why rows of `cols` weights did not get this type."""
    return (
        "others do not fit it, and all must be of one type"
        if qtype.fits(cols)
        else f"packs {qtype.size} at a time"
    )


def narrow(type_name: str, cols: int, container: Container) -> QuantType:
    """The type itself, or the next best one whose blocks divide a row of `cols` weights."""
    while not QUANT_TYPES[type_name].fits(cols):
        type_name = QUANT_TYPES[type_name].narrower or container.widest
    return QUANT_TYPES[type_name]


def check_rules(plan: Plan, arch: Arch, vision: Vision | None = None) -> None:
    """Raise EdgequantError for a rule that matches no tensor, or a type that no target can hold."""
    tower = vision.tower.shapes() if vision else ()
    names = [*matrix_widths(arch), *(f"{TOWER}{name}" for name in tower)]
    for rule in plan.rules:
        if not any(re.search(rule.pattern, name) for name in names):
            raise InputError(f"--rule {rule} matches no tensor; names look like {names[1]}.")
        if not any(_holds(target.container, rule.type_name) for target in plan.targets):
            holders = [name for name in CONTAINERS if _holds(name, rule.type_name)]
            raise InputError(
                f"--rule {rule}: none of the targets can hold {rule.type_name}, "
                f"which goes into {' or '.join(holders) or 'no container'}; choose a type from "
                "`quantize list types`, or add a --to."
            )


def _holds(container: str, type_name: str) -> bool:
    return CONTAINERS[container].holds(QUANT_TYPES[type_name])


def _span(names: list[str]) -> str:
    """A few names that stand for many."""
    parts = sorted({name.split(".")[-2] for name in names})
    return ", ".join(parts)
