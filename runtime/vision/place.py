"""Where the embeddings of images stand among those of a text, and on which of three axes.

Shapes: T tokens of one row, D channels of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runtime.archs import Attention
from runtime.archs.heads import EMBEDDING
from runtime.errors import InputError
from runtime.forward import Array, Ops
from runtime.positions import Positions, Tables
from runtime.tensor import Tensor
from runtime.vision.image import Patches


def with_room(ids: Sequence[int], images: Sequence[Patches], merge: int, token: int) -> list[int]:
    """A text in which each image is one `token`: as many of it as the image has embeddings.

    Raises InputError where there are not as many images as such tokens.
    """
    places = sum(found == token for found in ids)
    if places != len(images):
        raise InputError(
            f"the text has {places} places for images (token {token}), and {len(images)} images "
            "were given; give one for each."
        )
    counts = iter(image.tokens(merge) for image in images)
    room = [[found] * (next(counts) if found == token else 1) for found in ids]
    return [found for part in room for found in part]


def axes(ids: np.ndarray, images: Sequence[Patches], merge: int, token: int) -> np.ndarray:
    """Time, height and width of every token of a row that has room for its images: (3, T).

    Text goes on after an image at the first place that none of its tokens has on any axis.
    """
    parts: list[np.ndarray] = []
    at = here = 0
    for image in images:
        start = at + int(np.argmax(ids[at:] == token))
        parts.append(np.tile(here + np.arange(start - at), (3, 1)))
        here += start - at
        high, wide = image.rows // merge, image.cols // merge
        rows, cols = np.divmod(np.arange(high * wide), wide)
        parts.append(here + np.stack([np.zeros_like(rows), rows, cols]))
        here += max(high, wide)
        at = start + high * wide
    parts.append(np.tile(here + np.arange(len(ids) - at), (3, 1)))
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Embedded:
    """What stands in place of some tokens."""

    rows: np.ndarray
    """Which tokens: (n,)."""
    values: np.ndarray
    """(n, D) float32."""


class AxisPositions(Positions):
    """Places of one row's tokens on three axes, which turn different channels of a head."""

    def __init__(self, places: np.ndarray, sections: tuple[int, ...], images: Embedded) -> None:
        """`places` (3, T); `sections`: pairs of channels that turn with each axis."""
        super().__init__(0, int(places.max()) + 1)
        self.places, self.sections, self.images = places, sections, images

    def tables(self, spec: Attention) -> Tables | None:
        found = super().tables(spec)
        if found is None:
            return None
        ends = np.cumsum((0, *self.sections))
        cos, sin = (
            np.concatenate(
                [
                    table[place, start:stop]
                    for place, (start, stop) in zip(self.places, pairwise(ends), strict=True)
                ],
                axis=1,
            )
            for table in found
        )
        return cos, sin

    def filled(self, ops: Ops, x: Array) -> Array:
        """Embeddings x (1, T, D) with those of the images."""
        rows, values = self.images.rows, self.images.values
        if len(rows):
            table = ops.load(Tensor.dense(EMBEDDING, values))
            x[:, rows] = ops.embed(table, np.arange(len(rows))[None])
        return x
