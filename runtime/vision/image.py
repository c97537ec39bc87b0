"""From an image to the patches that a vision tower reads.

    image (h, w, 3) uint8
      resized to multiples of a token's side, within the pixels that the model was trained with
      cut to patches, those of one token beside each other
    patches (N, channels * temporal * patch * patch) float32, and how many there are each way

As transformers' Qwen2VLImageProcessor does with Pillow; with torchvision it resizes otherwise.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.json_files import checked, read_json
from runtime.json_types import Finite, Number, Size
from runtime.links import check_kind
from runtime.vision.tower import Tower

FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a checkpoint says how its images are made ready, what counts first."""
BICUBIC = 3
"""Pillow's number of it."""
MOST_UNEQUAL = 200
"""Times that one side of an image may be as long as the other."""


class Pixels(Struct):
    """Bounds of an image, in pixels of its area."""

    shortest_edge: Size = 56 * 56
    longest_edge: Size = 28 * 28 * 1280


class ImageConfig(Struct):
    """preprocessor_config.json, or `image_processor` of processor_config.json."""

    size: Pixels | None = None
    min_pixels: Size | None = None
    max_pixels: Size | None = None
    patch_size: Size | None = None
    merge_size: Size | None = None
    temporal_patch_size: Size | None = None
    resample: int = BICUBIC
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    image_mean: tuple[Finite, Finite, Finite] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Number, Number, Number] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """How images are made ready."""

    least: int
    """Pixels of the smallest image; smaller ones are enlarged."""
    most: int
    mean: tuple[float, float, float]
    """Of each colour, 0 to 1."""
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Patches:
    """One image, ready for a tower."""

    values: np.ndarray
    """(rows * cols, channels * temporal * patch * patch) float32."""
    rows: int
    """Patches from top to bottom."""
    cols: int

    def tokens(self, merge: int) -> int:
        """Embeddings that the language model gets, where `merge` x `merge` patches are one."""
        return self.rows * self.cols // merge**2


def read_preparation(folder: Path, tower: Tower) -> Preparation:
    """The settings of a checkpoint, those of transformers where it says nothing.

    Raises EdgequantError for what is not what it must be, contradicts the tower, or is not done
    here.
    """
    found: dict[str, Any] = {}
    for name in reversed(FILES):
        stored = read_json(folder / name)
        found = stored.get("image_processor", stored if name == FILES[1] else found)
    settings = checked(found, ImageConfig, "preprocessor_config.json")
    if settings.resample != BICUBIC or not (
        settings.do_resize and settings.do_rescale and settings.do_normalize
    ):
        raise UnsupportedError(
            f"{folder} resizes by another interpolation than bicubic, or does not resize, rescale "
            "and normalize images; only what Qwen2-VL's releases do is supported."
        )
    size = settings.size or Pixels()
    least = settings.min_pixels or size.shortest_edge
    most = settings.max_pixels or size.longest_edge
    wrong = _contradiction(settings, tower)
    if least > most:
        wrong = f"at least {least} pixels and at most {most}"
    if wrong:
        raise CorruptFileError(
            f"preprocessor_config.json of {folder} has {wrong}; take the files of one download."
        )
    return Preparation(least, most, settings.image_mean, settings.image_std)


def _contradiction(settings: ImageConfig, tower: Tower) -> str | None:
    """What the settings say of patches that is not the tower's."""
    pairs = {
        ("patch_size", "patch_size"): (settings.patch_size, tower.patch),
        ("merge_size", "spatial_merge_size"): (settings.merge_size, tower.merge),
        ("temporal_patch_size",) * 2: (settings.temporal_patch_size, tower.temporal),
    }
    for (name, own), (said, right) in pairs.items():
        if said not in (None, right):
            return f"{name} {said}, and vision_config of config.json has {own} {right}"
    return None


def read_image(path: Path) -> np.ndarray:
    """An image file as (h, w, 3) uint8, turned as its EXIF orientation says, as transformers does.

    Raises EdgequantError where it does not open.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UnsupportedError("reading images needs Pillow; pip install pillow.") from None
    check_kind(path)
    try:
        with warnings.catch_warnings():  # of large images, and of transparency that is left out
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an image file.") from None
    except Exception as error:  # every format of Pillow has exceptions of its own
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} does not open as an image ({reason}); give a PNG or JPEG file."
        ) from error


def patches_of(image: np.ndarray, tower: Tower, preparation: Preparation) -> Patches:
    """An image (h, w, 3) uint8, ready for a tower. Raises InputError for one that is too narrow."""
    unit = tower.patch * tower.merge
    height, width = fitting_size(image.shape[0], image.shape[1], unit, preparation)
    if (height, width) != image.shape[:2]:
        image = _resized(image, height, width)
    mean, std = (np.array(part, np.float32) for part in (preparation.mean, preparation.std))
    values = (image.astype(np.float32) / 255 - mean) / std
    rows, cols = height // tower.patch, width // tower.patch
    side, merge = tower.patch, tower.merge
    # (row of tokens, its row, pixel; column of tokens, its column, pixel; colour)
    parts = values.reshape(rows // merge, merge, side, cols // merge, merge, side, 3)
    parts = parts.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
    shape = (*parts.shape[:5], tower.temporal, side, side)  # an image stands still
    return Patches(np.broadcast_to(parts, shape).reshape(rows * cols, -1), rows, cols)


def fitting_size(height: int, width: int, unit: int, preparation: Preparation) -> tuple[int, int]:
    """Height and width in multiples of `unit` pixels, within the bounds, nearly in proportion.

    Raises InputError for an image without pixels, or one that is far longer than wide.
    """
    if min(height, width) < 1 or max(height, width) > MOST_UNEQUAL * min(height, width):
        raise InputError(
            f"an image of {width} x {height} pixels is not read: one side may be {MOST_UNEQUAL} "
            "times as long as the other, not more; cut it."
        )
    high, wide = (round(side / unit) * unit for side in (height, width))
    if high * wide > preparation.most:
        factor = math.sqrt(height * width / preparation.most)
        high, wide = (max(1, int(side / factor / unit)) * unit for side in (height, width))
    elif high * wide < preparation.least:
        factor = math.sqrt(preparation.least / (height * width))
        high, wide = (math.ceil(side * factor / unit) * unit for side in (height, width))
    return high, wide


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Another size, by bicubic interpolation."""
    try:
        from PIL import Image
    except ImportError:
        raise UnsupportedError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels is resized to {width} x "
            f"{height}, which needs Pillow; pip install pillow."
        ) from None
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
