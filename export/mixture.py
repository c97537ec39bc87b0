"""A mixture of types: a base type, and rules that give some linears of a model another one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.archs import Arch


@dataclass(frozen=True)
class Spot:
    """Where in the model a linear stands."""

    name: str
    """"attn_v", "attn_output", ...; "ffn_down" also of experts and of the shared one."""
    layer: int
    layers: int
    grouped: int
    """Query heads that share a key-value head."""
    experts: int = 0
    """Experts of the layer; 0 where it has none."""

    @staticmethod
    def of(arch: Arch, name: str) -> "Spot":
        """Where the tensor "blk.3.attn_v.weight" stands."""
        _, layer, part, _ = name.split(".")
        mixture, part = arch.layer(int(layer)).mixture, part.removesuffix("_exps")
        experts = mixture.router.outputs if mixture else 0
        grouped = arch.heads // arch.kv_heads
        return Spot(part.removesuffix("_shexp"), int(layer), arch.layers, grouped, experts)

    @property
    def sensitive(self) -> bool:
        """The first and last eighth of the layers, and every third between."""
        eighth = self.layers // 8
        return (
            self.layer < eighth
            or self.layer >= 7 * self.layers // 8
            or (self.layer - eighth) % 3 == 2
        )

    @property
    def early(self) -> bool:
        """The first eighth of the layers."""
        return self.layer < self.layers // 8


Choice = Callable[[Spot], str | None]
"""The type that a linear gets where it stands, or None for the base type."""


@dataclass(frozen=True)
class Preset:
    """A base type and, for some linears, a rule that gives another type or None."""

    base: str
    exceptions: Mapping[str, Choice]
    """Name of the linear, as in Spot -> its rule."""
    head: str
    """Type of the output head, which is the embedding itself when they are tied."""
    embedding: str | None = None
    """Type of an embedding that is not the head; None = base."""

    def choose(self, arch: Arch, name: str) -> str:
        """The type of a 2-D weight, whether or not its rows fit the blocks."""
        if name == arch.head:
            return self.head
        if name == "token_embd.weight":
            return self.embedding or self.base
        if arch.precise(name):
            return "F32"
        spot = Spot.of(arch, name)
        rule = self.exceptions.get(spot.name)
        return (rule(spot) if rule else None) or self.base


def everywhere(type_name: str) -> Choice:
    """One type in every layer."""
    return lambda spot: type_name


def where_sensitive(type_name: str) -> Choice:
    """A type for the sensitive layers."""
    return lambda spot: type_name if spot.sensitive else None


def where_early(type_name: str) -> Choice:
    """A type for the early layers."""
    return lambda spot: type_name if spot.early else None


def where_grouped(type_name: str) -> Choice:
    """A type for models in which four or more query heads share a key-value head."""
    return lambda spot: type_name if spot.grouped >= 4 else None
