"""What a container is told of a model's vision tower."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.quant_types import QuantType
from runtime.vision.vision import Vision


@dataclass(frozen=True)
class Sight:
    """The vision tower of a model as an artifact of it holds it."""

    vision: Vision
    types: Mapping[str, QuantType]
    """Of each of its linears, by the name of its weight; what maps pixels to patches stays F32."""

    @property
    def ids(self) -> tuple[int, int, int]:
        """Tokens before an image, in place of it, and after it: none is seen without them."""
        assert self.vision.ids
        return self.vision.ids
