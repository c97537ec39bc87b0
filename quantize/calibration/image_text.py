"""Calibration rows of images with captions, for a model that reads them.

A row is filled with images, each followed by its caption. What is cut off at its end begins the
next row, so that every image is seen whole. The vision tower makes their embeddings once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calib_data import Windows
from calib_data.drawings import SIZES
from quantize.calibration.captions import Picture, drawn, in_folder
from quantize.calibration.rows import Rows
from quantize.checkpoint import Checkpoint
from quantize.plan.plan import IMAGE_WORDS
from quantize.vision import open_vision
from runtime.archs.qwen2vl import VisionArch
from runtime.errors import InputError
from runtime.vision.encode import encode
from runtime.vision.image import Patches, fitting_size, patches_of
from runtime.vision.place import AxisPositions, Embedded, axes
from runtime.vision.vision import Vision

BUILTIN, NONE = IMAGE_WORDS
DOMAIN = "images"
"""Of rows of images, beside prose, code and so on."""
SHARE = 8
"""Rows of text that one row of images is added to."""
SHORTEST = 32
"""Tokens that a drawing and its caption take at least."""
PATCHES = 1 << 14
"""Patches that go through the tower at a time, unless one image has more."""


@dataclass(frozen=True)
class ImageText:
    """Images with captions, and how many rows they fill."""

    vision: Vision
    pictures: Sequence[Picture]
    """In the order in which they are read."""
    order: tuple[tuple[int, ...], ...]
    """Which pictures each row begins: see `packed`."""
    length: int
    """Tokens of a row."""

    @property
    def rows(self) -> int:
        return len(self.order)

    @property
    def seen(self) -> int:
        """Pictures that are in some row."""
        return len({number for row in self.order for number in row})


class Piece(NamedTuple):
    """A picture and its caption among tokens."""

    patches: Patches
    ids: list[int]


def open_images(
    checkpoint: Checkpoint, spec: str, rows: int, length: int, seed: int
) -> tuple[ImageText | None, tuple[str, ...]]:
    """What is calibrated on beside `rows` windows of text, and what is said aloud about it.

    `spec`: BUILTIN, NONE, or a folder of images with captions. No rows for a model without images.
    Raises EdgequantError for a tower that is not whole, a folder for a model that reads no images,
    and for what is wrong in it.
    """
    vision = open_vision(checkpoint) if spec != NONE else None
    if vision is None or vision.ids is None or not isinstance(checkpoint.arch, VisionArch):
        if spec not in (BUILTIN, NONE):
            raise InputError(
                f"{checkpoint.name} reads no images, which --calib-images is about; leave it out."
            )
        return None, ()
    most = max(1, rows // SHARE)
    notes: list[str] = []
    if spec == BUILTIN:
        if max(room(size, vision) for size in SIZES) >= length:
            return None, (f"no images to calibrate on: windows of {length} tokens are too short",)
        pictures = drawn(most * (length // SHORTEST + 1), seed)
    else:
        pictures, notes = in_folder(Path(spec), seed)
        for picture in pictures:
            check_room(picture, vision, length)
    lengths = [room(p.size, vision) + len(caption(p, vision, checkpoint)) for p in pictures]
    found = ImageText(vision, pictures, packed(lengths, length, most), length)
    total = rows + found.rows
    notes.append(f"{found.rows} of {total} calibration windows are images with captions")
    if spec != BUILTIN and found.seen < len(pictures):
        notes.append(
            f"{found.seen} of {len(pictures)} images of {spec} have room in them; give more "
            "--calib-rows for more"
        )
    return found, tuple(notes)


def room(size: tuple[int, int], vision: Vision) -> int:
    """Tokens of an image of so many pixels, with those before and after it."""
    unit = vision.tower.patch * vision.tower.merge
    high, wide = fitting_size(*size, unit, vision.preparation)
    return high * wide // unit**2 + 2


def check_room(picture: Picture, vision: Vision, length: int) -> None:
    """Raise InputError for an image that leaves no room for its caption."""
    try:
        taken = room(picture.size, vision)
    except InputError as error:
        raise InputError(f"{picture.name}: {error}") from error
    if taken >= length:
        raise InputError(
            f"{picture.name} takes {taken} tokens, and calibration windows have {length}; use a "
            "smaller image, or more --calib-length."
        )


def caption(picture: Picture, vision: Vision, checkpoint: Checkpoint) -> list[int]:
    """A caption's tokens, and the one that separates texts.

    Raises InputError where tokens of images are among them.
    """
    ids = checkpoint.tokenizer.encode(picture.caption)
    if wrong := set(ids) & set(vision.ids or ()):
        raise InputError(
            f"the caption of {picture.name} has {checkpoint.tokenizer.decode(wrong)}, which stands "
            "for an image; take it out."
        )
    separator = checkpoint.tokenizer.separator
    return ids if separator is None else [*ids, separator]


def packed(lengths: Sequence[int], length: int, most: int) -> tuple[tuple[int, ...], ...]:
    """Numbers of the pieces that each row begins: `length` tokens or more of them in all.

    The last piece of a row, where it is cut off, begins the next one. At most `most` rows; the
    last one begins anew with the first pieces where none are left.
    """
    rows: list[tuple[int, ...]] = []
    at = 0
    while at < len(lengths) and len(rows) < most:
        row: list[int] = []
        filled = 0
        while filled < length:
            row.append(at % len(lengths))
            filled += lengths[row[-1]]
            at += 1
        if filled > length and len(row) > 1:
            at -= 1
        rows.append(tuple(row))
    return tuple(rows)


def image_rows(images: ImageText, checkpoint: Checkpoint) -> Rows:
    """The rows, with the embeddings that the tower makes."""
    arch, vision = checkpoint.arch, images.vision
    assert isinstance(arch, VisionArch) and vision.ids is not None
    start, token, end = vision.ids
    merge, pieces = vision.tower.merge, {}
    for number in sorted({number for row in images.order for number in row}):
        picture = images.pictures[number]
        patches = patches_of(picture.pixels(), vision.tower, vision.preparation)
        words = caption(picture, vision, checkpoint)
        ids = [start, *[token] * patches.tokens(merge), end, *words]
        pieces[number] = Piece(patches, ids)
    values = dict(
        zip(pieces, embeddings(vision, [p.patches for p in pieces.values()]), strict=True)
    )
    found, places = np.zeros((images.rows, images.length), np.int32), {}
    for number, row in enumerate(images.order):
        whole = np.array([token for piece in row for token in pieces[piece].ids])
        stand = axes(whole, [pieces[piece].patches for piece in row], merge, token)
        found[number] = whole[: images.length]
        at = np.flatnonzero(found[number] == token)
        embedded = np.concatenate([values[piece] for piece in row])[: len(at)]
        places[number] = AxisPositions(
            stand[:, : images.length], arch.sections, Embedded(at, embedded)
        )
    return Rows(found, places)


def embeddings(vision: Vision, images: Sequence[Patches]) -> Iterator[np.ndarray]:
    """(tokens, D) of each image; the tower is read once for PATCHES of them."""
    batch: list[Patches] = []
    for image in images:
        if batch and sum(len(one.values) for one in batch) + len(image.values) > PATCHES:
            yield from _encoded(vision, batch)
            batch = []
        batch.append(image)
    yield from _encoded(vision, batch)


def _encoded(vision: Vision, images: list[Patches]) -> list[np.ndarray]:
    counts = [image.tokens(vision.tower.merge) for image in images]
    found = encode(vision.tower, vision.tensors, images)
    return np.split(found, np.cumsum(counts)[:-1])


def mixed(text: Windows, images: Rows) -> tuple[Windows, Rows]:
    """Rows of images spread evenly among windows of text, the first one at the start."""
    total = len(text.ids) + len(images.ids)
    at = np.linspace(0, total, len(images.ids), endpoint=False).astype(int)
    others = np.setdiff1d(np.arange(total), at)
    ids, domains = np.empty((total, text.ids.shape[1]), np.int32), np.full(total, DOMAIN, object)
    ids[at], ids[others], domains[others] = images.ids, text.ids, text.domains
    rows = Rows(ids, {int(row): images.images[number] for number, row in enumerate(at)})
    return replace(text, ids=ids, domains=tuple(domains)), rows
