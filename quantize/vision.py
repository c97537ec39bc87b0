"""The vision tower of a checkpoint that a user names, checked before any work."""

import hashlib
from typing import NamedTuple

from quantize.checkpoint import Checkpoint, check_finite
from runtime.stored import StoredTensors
from runtime.vision.encode import tower_tensors
from runtime.vision.ids import image_ids
from runtime.vision.image import Preparation, read_preparation
from runtime.vision.tower import Tower, tower_of


class Vision(NamedTuple):
    """A tower, and how images are made ready for it."""

    tower: Tower
    tensors: StoredTensors
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


def open_vision(checkpoint: Checkpoint) -> Vision | None:
    """The tower of a checkpoint; None for one without, or none that is run here.

    Raises EdgequantError for a tower that is not whole, holds NaN or infinity, or contradicts the
    checkpoint's files.
    """
    tower = tower_of(checkpoint.config)
    if tower is None:
        return None
    ids = image_ids(checkpoint.config, checkpoint.arch.vocab)
    preparation = read_preparation(checkpoint.folder, tower)
    tensors = tower_tensors(tower, checkpoint.beside)
    for name, tensor in tensors.items():
        check_finite(tensor, tensor.decode(), f"{name} of the vision tower")
    return Vision(tower, tensors, preparation, ids)
