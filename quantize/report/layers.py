"""The tensors of an artifact by layer, for the page."""

from dataclasses import dataclass

from quantize.report.charts import place_of, short
from quantize.report.report import ArtifactResult
from quantize.report.scan import TensorFact


@dataclass(frozen=True)
class Layer:
    """A layer, or a part outside the layers."""

    name: str
    kl: float | None
    """Mean KL of the original with only this part replaced, nats a token; None = not measured."""
    share: float
    """Of the largest of these KLs, 0 to 1."""
    bytes: int
    tensors: tuple[TensorFact, ...]

    @property
    def types(self) -> str:
        """Of its tensors, each once, the one with most bytes first."""
        sizes: dict[str, int] = {}
        for fact in self.tensors:
            sizes[fact.type] = sizes.get(fact.type, 0) + fact.bytes
        return ", ".join(sorted(sizes, key=lambda name: -sizes[name]))

    @property
    def fallbacks(self) -> int:
        """Tensors that could not have the type that was asked for."""
        return sum(fact.asked is not None for fact in self.tensors)


def by_layer(result: ArtifactResult) -> list[Layer]:
    """All tensors of an artifact, in file order."""
    facts: dict[str, list[TensorFact]] = {}
    for fact in result.tensors:
        facts.setdefault(place_of(fact.name), []).append(fact)
    kl = {place_of(part.part): part.kl for part in result.parts}
    most = max(kl.values(), default=0.0) or 1.0
    return [
        Layer(
            title(place),
            kl.get(place),
            kl.get(place, 0.0) / most,
            sum(fact.bytes for fact in found),
            tuple(found),
        )
        for place, found in facts.items()
    ]


def title(place: str) -> str:
    """ "blk.3" -> "layer 3", "token_embd.weight" -> "embedding"."""
    name = short(place)
    return f"layer {name}" if place.startswith("blk.") else {"embed": "embedding"}.get(name, name)
