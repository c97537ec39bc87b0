"""Everything that a checkpoint has for seeing."""

import hashlib
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

    def sha256(self) -> str:
        """What names the tower in artifacts: of names, shapes and first rows of its tensors.

        Training changes them all, and a copy in another float type that holds them changes none.
        """
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.shape}".encode())
            digest.update(tensor.decode(0, 1).astype("<f4").tobytes())
        return digest.hexdigest()
