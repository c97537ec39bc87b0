"""How much of a model a run holds at a time. The artifact has the same bytes in every way."""

from dataclasses import dataclass

from quantize.run.cost import FLOAT
from quantize.run.recipe import Recipe
from runtime.archs import InputGroup, LayerSpec


@dataclass(frozen=True)
class Way:
    """What stays in memory, and what is read again from the disk or computed again."""

    states: float = 8.0
    """GiB of hidden states of a step that are held in memory; larger ones lie on disk."""
    streamed: bool = False
    """Whether linears of a layer stay where they are stored, and are decoded some rows at a time
    each time that they are needed."""
    in_passes: bool = False
    """Whether a layer is computed again and again, each time for the Hessians of some input groups
    only."""


WAYS = (
    Way(),
    Way(states=0),
    Way(states=0, streamed=True),
    Way(states=0, streamed=True, in_passes=True),
)
"""From the fastest to the one that holds least. Without --max-ram it is the first."""


def passes(spec: LayerSpec, way: Way, recipe: Recipe) -> list[tuple[InputGroup, ...]]:
    """The input groups of a layer, those of experts left out, by the passes in which their Hessians
    are summed: as many at a time as the room of the largest one has.

    All in one where a method scales the outputs of linears, which must not be rounded before.
    """
    groups = [group for group in spec.groups if group.expert is None]
    if not way.in_passes or recipe.method.scales:
        return [tuple(groups)]
    room = max(group.width**2 for group in groups)
    found: list[list[InputGroup]] = [[]]
    for group in groups:
        if sum(other.width**2 for other in found[-1]) + group.width**2 > room:
            found.append([])
        found[-1].append(group)
    return [tuple(part) for part in found if part]


def square_bytes(groups: tuple[InputGroup, ...]) -> int:
    """Bytes of their Hessians."""
    return FLOAT * sum(group.width**2 for group in groups)
