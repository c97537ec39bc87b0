"""Everything that a checkpoint has for seeing."""

from collections.abc import Mapping
from typing import NamedTuple

from runtime.tensor import Tensor
from runtime.vision.image import Preparation
from runtime.vision.tower import Tower


class Vision(NamedTuple):
    """A tower, and how images are made ready for it."""

    tower: Tower
    tensors: Mapping[str, Tensor]
    preparation: Preparation
    ids: tuple[int, int, int] | None
    """Tokens before an image, in place of it, and after it; None where config.json lacks one."""
