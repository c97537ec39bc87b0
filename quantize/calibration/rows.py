"""Calibration rows: token ids, and in some rows images in place of some of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantize.run.cost import FLOAT
from runtime.archs import Arch, Attention
from runtime.archs.qwen2vl import VisionArch
from runtime.positions import Positions, Tables
from runtime.vision.place import AxisPositions, Embedded

Images = Mapping[int, AxisPositions]
"""Row -> where its tokens stand, and which of them are embeddings of images."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What goes through the layers: windows of equal length."""

    ids: np.ndarray
    """(rows, T); an image has as many of its token as it has embeddings."""
    images: Images = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and tokens of each."""
        count, length = self.ids.shape
        return count, length

    @property
    def size(self) -> int:
        """Tokens of all rows, those of images included."""
        return int(self.ids.size)

    @property
    def text(self) -> np.ndarray:
        """Where tokens stand as themselves, (rows, T): nobody reads a prediction within images."""
        found = np.ones(self.ids.shape, bool)
        for row, positions in self.images.items():
            found[row, positions.images.rows] = False
        return found

    def taken(self, rows: np.ndarray) -> "Rows":
        """Some of the rows, by their numbers (n,)."""
        chosen = enumerate(rows.tolist())
        images = {at: self.images[row] for at, row in chosen if row in self.images}
        return Rows(self.ids[rows], images)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `rows_of` makes them of again."""
        found = {"ids": self.ids}
        if self.images:
            where = list(self.images.values())
            found["rows"] = np.array(list(self.images))
            found["embedded"] = ~self.text[found["rows"]]  # (n, T)
            found["places"] = np.stack([positions.places for positions in where])  # (n, 3, T)
            found["values"] = np.concatenate([positions.images.values for positions in where])
        return found


def rows_of(arch: Arch, load: Callable[[str], np.ndarray], images: int) -> Rows:
    """Rows, `images` of them with images, from the arrays that `load` gives by their names."""
    if not images:
        return Rows(load("ids"))
    assert isinstance(arch, VisionArch)
    embedded, values, places = load("embedded"), load("values"), load("places")
    parts = np.split(values, np.cumsum(embedded.sum(1))[:-1])
    found = {}
    for number, row in enumerate(load("rows").tolist()):
        there = Embedded(np.flatnonzero(embedded[number]), parts[number])
        found[row] = AxisPositions(places[number], arch.sections, there)
    return Rows(load("ids"), found)


def image_bytes(arch: Arch, rows: int, length: int) -> int:
    """Bytes that so many rows with images take beside their tokens, at most."""
    return rows * length * (1 + 3 * 8 + FLOAT * arch.hidden)


class RowPositions(Positions):
    """Where the tokens of several rows stand, each row at places of its own."""

    def __init__(self, rows: Sequence[Positions]) -> None:
        super().__init__(0, max(row.stop for row in rows))
        self.rows = rows

    def tables(self, spec: Attention) -> Tables | None:
        """cos and sin, (rows, T, rotated channels / 2) each."""
        found = [tables for row in self.rows if (tables := row.tables(spec)) is not None]
        if not found:
            return None
        cos, sin = (np.stack(part) for part in zip(*found, strict=True))
        return cos, sin


def placed(
    count: int, length: int, tokens: int, images: Images
) -> Iterator[tuple[slice, Positions]]:
    """Slices of `count` rows of `length`, at most `tokens` of them and at least a row, and where
    their tokens stand."""
    text = Positions(0, length)
    for here in batches(count, max(1, tokens // length)):
        rows = [images.get(row, text) for row in range(here.start, here.stop)]
        alike = all(row is text for row in rows)
        yield here, text if alike else RowPositions(rows)


def batches(total: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover `total`."""
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
