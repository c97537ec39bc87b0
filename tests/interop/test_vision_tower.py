"""Images in transformers: its pixels, and its vision tower."""

from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from runtime.vision.encode import encode, tower_tensors
from runtime.vision.image import patches_of, read_image, read_preparation
from runtime.vision.tower import tower_of
from tests.vision_models import MODELS, vision_model

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SIZES = [(100, 130), (28, 28), (300, 90), (84, 140), (30, 30), (1300, 900)]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_pixels_and_embeddings_equal_transformers(name: str, tmp_path: Path) -> None:
    import torch
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as reference

    folder = vision_model(tmp_path / "model", MODELS[name])
    reference.Qwen2VLImageProcessorPil(max_pixels=28 * 28 * 40).save_pretrained(folder)
    checkpoint, rng = open_checkpoint(folder), np.random.default_rng(0)
    tower = tower_of(checkpoint.config)
    assert tower
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    found = [patches_of(image, tower, read_preparation(folder, tower)) for image in images]

    processor = reference.Qwen2VLImageProcessorPil.from_pretrained(folder)
    expected = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    grids = expected["image_grid_thw"]
    assert [[1, image.rows, image.cols] for image in found] == grids.tolist()
    pixels = np.concatenate([image.values for image in found])
    np.testing.assert_allclose(pixels, expected["pixel_values"].numpy(), atol=1e-6)

    auto = transformers.AutoModelForImageTextToText
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        there = model.model.visual(expected["pixel_values"], grid_thw=grids).pooler_output
    ours = encode(tower, tower_tensors(tower, checkpoint.beside), found)
    np.testing.assert_allclose(ours, there.numpy(), atol=1e-4)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_is_turned_as_transformers_does(turn: int, tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.random.default_rng(turn).integers(0, 256, (8, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif)
    expected = np.asarray(load_image(str(tmp_path / "x.jpg")))
    np.testing.assert_array_equal(read_image(tmp_path / "x.jpg"), expected)
