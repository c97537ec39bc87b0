"""Images with captions: drawings that come with the project, or a folder of the user's.

In a folder each image has its caption beside it, in a text file of the same name:

    garden.jpg  garden.txt
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from calib_data.drawings import calibration_drawings
from runtime.errors import InputError
from runtime.vision.image import read_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of files that are images."""
FORM = "give a folder of images, each with its caption in a .txt file of the same name"


@dataclass(frozen=True)
class Picture:
    """An image and its caption; pixels are read when they are needed."""

    name: str
    caption: str
    size: tuple[int, int]
    """Height and width in pixels."""
    pixels: Callable[[], np.ndarray]
    """(h, w, 3) uint8."""


def drawn(count: int, seed: int) -> list[Picture]:
    """Drawings, of which none is among those that artifacts are judged by."""
    return [
        Picture("a drawing", one.caption, one.size, partial(np.asarray, one.pixels))
        for one in calibration_drawings(count, seed)
    ]


def in_folder(folder: Path, seed: int) -> tuple[list[Picture], list[str]]:
    """The images of a folder in an order that depends on the seed, and what was not read.

    Raises EdgequantError for a folder that is not there or has none, an image without a caption, a
    caption without an image, and one that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--calib-images {folder} is no folder; {FORM}.")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    images = [path for path in files if path.suffix.lower() in ENDINGS]
    captions = {path.stem: path for path in files if path.suffix.lower() == ".txt"}
    if not images:
        raise InputError(f"{folder} has no images; {FORM}.")
    for path in images:
        if path.stem not in captions:
            raise InputError(f"{path} has no caption; write one into {path.stem}.txt beside it.")
    if lonely := sorted(captions.keys() - {path.stem for path in images}):
        raise InputError(f"{captions[lonely[0]]} is the caption of no image; {FORM}.")
    Random(seed).shuffle(images)
    others = len(files) - len(images) - len(captions)
    notes = [f"{others} files of {folder} are no images or captions: not read"] if others else []
    return [_picture(path, captions[path.stem]) for path in images], notes


def _picture(image: Path, caption: Path) -> Picture:
    """Raises EdgequantError for a file that cannot be read."""
    try:
        text = caption.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{caption} is no UTF-8 text ({error}); save it as UTF-8.") from error
    if not text:
        raise InputError(f"{caption} is empty; write what {image.name} shows.")
    height, width = read_image(image).shape[:2]
    return Picture(str(image), text, (height, width), partial(read_image, image))
