"""Images to patches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.vision.image import fitting_size, patches_of, read_image, read_preparation
from runtime.vision.tower import tower_of
from tests.vision_models import QWEN25

TOWER = tower_of(QWEN25)
assert TOWER
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_patches_of_one_token_lie_beside_each_other(tmp_path: Path) -> None:
    preparation = read_preparation(tmp_path, TOWER)
    image = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
    found = patches_of(image, TOWER, preparation)
    assert (found.rows, found.cols, found.tokens(2)) == (6, 8, 12)
    plain = (image / 255 - np.array(MEAN)) / np.array(STD)
    at = 0
    for token_row in range(3):
        for token_col in range(4):
            for row in range(2):
                for col in range(2):
                    top, left = (2 * token_row + row) * 14, (2 * token_col + col) * 14
                    part = plain[top : top + 14, left : left + 14].transpose(2, 0, 1)
                    twice = np.stack([part, part], axis=1).reshape(-1)
                    np.testing.assert_allclose(found.values[at], twice, atol=1e-6)
                    at += 1
    assert at == len(found.values)


@pytest.mark.parametrize(
    ("size", "fitting"),
    [
        ((84, 112), (84, 112)),
        ((13, 700), (28, 420)),
        ((1, 1), (56, 56)),
        ((43, 42), (56, 56)),
        ((42, 4000), (56, 4004)),
        ((5000, 3000), (1288, 756)),
    ],
)
def test_sizes_are_multiples_within_the_bounds(
    size: tuple[int, int], fitting: tuple[int, int], tmp_path: Path
) -> None:
    assert fitting_size(*size, 28, read_preparation(tmp_path, TOWER)) == fitting


@pytest.mark.parametrize("size", [(0, 4), (10, 2001)])
def test_an_image_that_is_too_narrow_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not read: one side may be 200 times"):
        fitting_size(*size, 28, read_preparation(tmp_path, TOWER))


@pytest.mark.parametrize(
    ("files", "least", "most"),
    [
        ({}, 3136, 1003520),
        (
            {"preprocessor_config.json": {"min_pixels": 6272, "max_pixels": 12845056}},
            6272,
            12845056,
        ),
        ({"preprocessor_config.json": {"size": {"shortest_edge": 99}}}, 99, 1003520),
        (
            {
                "preprocessor_config.json": {"min_pixels": 1},
                "processor_config.json": {"image_processor": {"min_pixels": 2}},
            },
            2,
            1003520,
        ),
        ({"preprocessor_config.json": {"min_pixels": 5}, "processor_config.json": {}}, 5, 1003520),
    ],
)
def test_bounds_are_those_of_the_checkpoint(
    files: dict[str, Any], least: int, most: int, tmp_path: Path
) -> None:
    for name, stored in files.items():
        (tmp_path / name).write_text(json.dumps(stored))
    found = read_preparation(tmp_path, TOWER)
    assert (found.least, found.most, found.mean, found.std) == (least, most, MEAN, STD)


@pytest.mark.parametrize(
    ("stored", "kind", "sentence"),
    [
        ({"min_pixels": "many"}, CorruptFileError, "min_pixels is not what it must be"),
        ({"image_std": [0.5, 0, 0.5]}, CorruptFileError, "image_std"),
        ({"do_resize": False}, UnsupportedError, "does not resize"),
        ({"resample": 2}, UnsupportedError, "another interpolation than bicubic"),
        ({"patch_size": 16}, CorruptFileError, "patch_size 16, and vision_config .* patch_size 14"),
        ({"merge_size": 4}, CorruptFileError, "merge_size 4, .* has spatial_merge_size 2"),
        ({"temporal_patch_size": 1}, CorruptFileError, "temporal_patch_size 1, .* 2"),
        ({"min_pixels": 9000, "max_pixels": 9}, CorruptFileError, "least 9000 pixels .* most 9;"),
        ({"size": {"longest_edge": 99}}, CorruptFileError, "least 3136 pixels and at most 99;"),
    ],
)
def test_another_preparation_is_refused(
    stored: dict[str, Any], kind: type[Exception], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(kind, match=sentence) as caught:
        read_preparation(tmp_path, TOWER)
    assert "\n" not in str(caught.value)


def test_an_image_that_does_not_open_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.png does not exist"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text.png does not open as an image") as caught:
        read_image(tmp_path / "text.png")
    assert "\n" not in str(caught.value)


def test_an_image_file_is_read_as_three_colours(tmp_path: Path) -> None:
    from PIL import Image

    grey = np.random.default_rng(1).integers(0, 256, (5, 7), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_stands_as_its_orientation_says(turn: int, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    flipped = pixels.transpose(1, 0, 2)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: flipped,
        6: flipped[:, ::-1],
        7: flipped[::-1, ::-1],
        8: flipped[::-1],
    }
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected[turn])


def test_what_pillow_warns_of_is_read_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    image = Image.new("P", (5, 6), 1)  # 30 pixels: Pillow warns, and refuses twice as many
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "x.png", transparency=b"\x00\xff")
    assert (read_image(tmp_path / "x.png") == (10, 20, 30)).all()
    Image.new("P", (5, 9)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"large.png does not open as an image \(Image size"):
        read_image(tmp_path / "large.png")
