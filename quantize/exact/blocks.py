"""The error of each block of a weight, and those that are out of line.

Rounding errs by about as much everywhere in a tensor: the worst block of 32 columns has at most
twice the error of the worst of a thousand, five times where linears make up for earlier layers. A
scale whose sign flipped, or that is several times too large, stands far above: the block's error is
4 or 49 times its size, though no mean moves.
"""

from dataclasses import dataclass, field

import numpy as np

COLUMNS = 32
"""Of a block: the least that shares a scale in most types."""
NEAR = 8
"""Blocks of a row whose mean size one is measured against, where it is smaller: they may share the
scale of their scales."""
SMALL = 0.05
"""Share of the mean size, near it and in the tensor, below which a block counts as if it had it."""
RANK, SHARE = 16, 1e-3
"""The block that the worst is compared with: so many, and such a share of all, may be out of line.
"""
TIMES = 5.0
"""How far above it is out of line at least: making up for earlier layers moves a block of few large
numbers by up to 3.5 times."""
FINE = 30.0
"""How far above it is out of line, however small both are."""
LARGE = 0.7
"""The error that is out of line where the others' is not near: a block of zeros has 1."""
LEAST = 1e-5
"""Relative squared error that is not looked at: what float16 and float32 differ by."""


@dataclass(frozen=True)
class Place:
    """A block that is out of line."""

    row: int
    start: int
    """First column."""
    stop: int
    error: float
    """Sum of squared changes over sum of squares."""
    usual: float
    """That of one of the worst of the others."""

    def sentence(self, name: str) -> str:
        """Where, and by how much."""
        return (
            f"{name}, row {self.row}, columns {self.start}-{self.stop - 1}: an error of "
            f"{self.error:.3g} of its size, where hardly any other block has {self.usual:.3g}"
        )


@dataclass
class Blocks:
    """Of one tensor with `columns` columns, rows after rows."""

    columns: int
    changes: list[np.ndarray] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Columns of a block."""
        return COLUMNS if self.columns % COLUMNS == 0 else self.columns

    def add(self, change: np.ndarray, before: np.ndarray) -> None:
        """The next rows (n, columns): what rounding changed, and what was there."""
        for squares, kept in ((change, self.changes), (before, self.sizes)):
            blocks = squares.reshape(len(squares), -1, self.width)
            kept.append(np.einsum("rbc,rbc->rb", blocks, blocks))

    def out_of_line(self) -> list[Place]:
        """The blocks that are, the worst first."""
        if not self.changes:
            return []
        change, size = np.concatenate(self.changes), np.concatenate(self.sizes)
        count = size.shape[1]
        near = np.add.reduceat(size, np.arange(0, count, NEAR), axis=1) / NEAR
        floor = SMALL * np.maximum(np.repeat(near, NEAR, axis=1)[:, :count], size.mean())
        error = np.divide(
            change, np.maximum(size, floor), out=np.zeros_like(change), where=floor > 0
        )
        rank = min(max(RANK, int(SHARE * error.size)), error.size - 1)
        usual = float(np.partition(error, error.size - 1 - rank, axis=None)[error.size - 1 - rank])
        limit = max(TIMES * usual, min(FINE * usual, LARGE), LEAST)
        rows, blocks = np.nonzero(error > limit)
        order = np.argsort(-error[rows, blocks], kind="stable")
        return [
            Place(
                int(rows[at]),
                int(blocks[at]) * self.width,
                (int(blocks[at]) + 1) * self.width,
                float(error[rows[at], blocks[at]]),
                usual,
            )
            for at in order.tolist()
        ]


def told(places: list[Place], name: str) -> list[str]:
    """The worst of a weight's blocks that are out of line, and how many more there are."""
    sentences = [place.sentence(name) for place in places[:1]]
    if len(places) > 1:
        sentences[0] += f"; and {len(places) - 1:,} more blocks of this weight"
    return sentences
