"""Drawings with captions, made by code and free of rights (CC0): to judge and to calibrate with.

Each has a few plain shapes on a ground; the caption says which, in what colour and where. Sizes are
multiples of 28 pixels, so that no tool resizes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

COLOURS = {
    "red": (214, 40, 40),
    "blue": (30, 80, 200),
    "green": (40, 150, 70),
    "yellow": (245, 205, 50),
    "black": (20, 20, 20),
    "purple": (120, 50, 160),
    "orange": (240, 130, 30),
}
GROUNDS = {"white": (250, 250, 250), "grey": (190, 190, 190), "light blue": (190, 220, 245)}
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda row, col: row**2 + col**2 < 1,
    "ring": lambda row, col: np.abs(row**2 + col**2 - 0.7) < 0.3,
    "square": lambda row, col: np.maximum(abs(row), abs(col)) < 0.85,
    "triangle": lambda row, col: (abs(col) < (row + 1) / 2) & (row < 1),
    "cross": lambda row, col: (
        (np.minimum(abs(row), abs(col)) < 0.25) & (np.maximum(abs(row), abs(col)) < 1)
    ),
    "bar": lambda row, col: (abs(row) < 0.3) & (abs(col) < 1),
}
"""Name -> which pixels it covers, by rows and columns that are -1 to 1 within its place."""
PLACES = {
    "at the top left": (0.25, 0.25),
    "at the top right": (0.25, 0.75),
    "in the middle": (0.5, 0.5),
    "at the bottom left": (0.75, 0.25),
    "at the bottom right": (0.75, 0.75),
}
"""Where a shape stands -> its centre, as a share of height and width."""
SIZES = ((112, 112), (140, 168), (224, 140))
"""Height and width in pixels."""
HELD_OUT = 12
"""Drawings that artifacts are judged by; calibration sees others."""


@dataclass(frozen=True)
class Drawing:
    """A picture and what it shows."""

    pixels: np.ndarray
    """(h, w, 3) uint8."""
    caption: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width


def drawings(count: int, seed: int = 0) -> list[Drawing]:
    """`count` drawings, the same for the same seed; those that judge are the first of seed 0."""
    return [_drawing(Random(f"{seed} {number}"), number) for number in range(count)]


def calibration_drawings(count: int, seed: int = 0) -> list[Drawing]:
    """`count` others: whatever the seed, none shows what one of those that judge does."""
    judging = {drawing.caption for drawing in drawings(HELD_OUT)}
    found: list[Drawing] = []
    number = 0
    while len(found) < count:
        drawing = _drawing(Random(f"calibration {seed} {number}"), number)
        found += [drawing] if drawing.caption not in judging else []
        number += 1
    return found


def _drawing(random: Random, number: int) -> Drawing:
    ground, count = random.choice(list(GROUNDS)), random.choice((2, 3))
    pixels = np.empty((*SIZES[number % len(SIZES)], 3), np.uint8)
    pixels[:] = GROUNDS[ground]
    told = []
    colours = random.sample(list(COLOURS), count)
    for place, colour in zip(random.sample(list(PLACES), count), colours, strict=True):
        kind = random.choice(list(SHAPES))
        _paint(pixels, SHAPES[kind], PLACES[place], COLOURS[colour])
        article = "an" if colour[0] == "o" else "a"
        told.append(f"{place.capitalize()} there is {article} {colour} {kind}.")
    return Drawing(
        pixels,
        f"This is a drawing of {'two' if count == 2 else 'three'} plain shapes on a {ground} "
        f"ground. {' '.join(told)} Nothing else can be seen: no text, no people and no frame "
        "around the picture.",
    )


def _paint(
    pixels: np.ndarray,
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray],
    place: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    """Fill a shape of a fifth of the shorter side around its place."""
    high, wide = pixels.shape[:2]
    radius = min(high, wide) / 5
    rows, cols = np.indices((high, wide), dtype=np.float64)
    covered = shape((rows - place[0] * high) / radius, (cols - place[1] * wide) / radius)
    pixels[covered] = colour
