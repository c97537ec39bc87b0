"""The vision tower of a checkpoint that a user names, checked before any work."""

from quantize.checkpoint import Checkpoint, check_finite
from runtime.vision.encode import tower_tensors
from runtime.vision.ids import image_ids
from runtime.vision.image import read_preparation
from runtime.vision.tower import tower_of
from runtime.vision.vision import Vision


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
