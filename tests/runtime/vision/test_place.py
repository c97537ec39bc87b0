"""Images among the tokens of a text."""

from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import InputError, UnsupportedError
from runtime.generate import generate
from runtime.vision.encode import encode, tower_tensors
from runtime.vision.image import Patches
from runtime.vision.place import axes, with_room
from runtime.vision.seeing import SeeingEngine, SeenImages, see_together
from runtime.vision.tower import tower_of
from tests.small_models import assert_near
from tests.vision_models import IMAGE, MODELS, QWEN25, vision_model


def patches(rows: int, cols: int, values: int = 1176) -> Patches:
    shape = (rows * cols, values)
    return Patches(np.random.default_rng(rows).normal(size=shape).astype("f4"), rows, cols)


def test_each_image_gets_room_for_its_tokens() -> None:
    images = [patches(4, 6), patches(2, 2)]
    found = with_room([1, IMAGE, 2, IMAGE, 3], images, 2, IMAGE)
    assert found == [1, *[IMAGE] * 6, 2, IMAGE, 3]
    with pytest.raises(InputError, match=r"1 places for images \(token 4098\), and 2 images"):
        with_room([1, IMAGE], images, 2, IMAGE)


def test_axes_go_on_after_the_longer_side_of_an_image() -> None:
    images = [patches(4, 6), patches(2, 2)]
    ids = np.array(with_room([1, 2, IMAGE, IMAGE, 3], images, 2, IMAGE))
    found = axes(ids, images, 2, IMAGE)
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert axes(np.arange(3), [], 2, IMAGE).tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("backend", ["numpy", "torch", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_images_count_and_a_cache_changes_nothing(
    name: str, backend: str, tmp_path: Path, exact_products: None
) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", MODELS[name]))
    tower = tower_of(checkpoint.config)
    assert tower
    images = [patches(6, 4), patches(2, 4)]
    ids = np.array([with_room([5, IMAGE, 6, 7, IMAGE, 8, 9], images, 2, IMAGE)])
    seen = SeenImages(tower, tower_tensors(tower, checkpoint.beside), images, IMAGE)
    engine = SeeingEngine(open_engine(checkpoint.model(), backend), seen)
    whole = engine.logits(ids)
    cache = engine.new_cache(1, 40)
    parts = [engine.logits(ids[:, :-2], cache)]
    for at in range(ids.shape[1] - 2, ids.shape[1]):
        parts.append(engine.logits(ids[:, at : at + 1], cache))
    assert_near(np.concatenate(parts, axis=1), whole)
    text = open_engine(checkpoint.model(), "numpy").logits(ids)
    assert np.abs(text - whole).max() > 0.1 * np.abs(whole).max()
    assert len(list(generate(engine, ids[0].tolist(), 4))) == 4


def test_two_images_are_computed_as_one_after_the_other(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", QWEN25))
    tower = tower_of(checkpoint.config)
    assert tower
    tensors, images = tower_tensors(tower, checkpoint.beside), [patches(6, 4), patches(2, 4)]
    apart = np.concatenate([encode(tower, tensors, [image]) for image in images])
    assert_near(encode(tower, tensors, images), apart)


def test_prompts_that_are_computed_together_have_their_own_images(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", QWEN25))
    tower = tower_of(checkpoint.config)
    assert tower
    tensors, images = (
        tower_tensors(tower, checkpoint.beside),
        [[patches(2, 2)], [patches(4, 2)] * 2],
    )
    prompts = [SeenImages(tower, tensors, some, IMAGE) for some in images]
    see_together([])
    see_together(prompts)
    for prompt, some in zip(prompts, images, strict=True):
        assert_near(prompt.values, encode(tower, tensors, some))


def test_models_that_read_no_images_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", QWEN25))
    tower = tower_of(checkpoint.config)
    assert tower
    seen = SeenImages(tower, tower_tensors(tower, checkpoint.beside), [], IMAGE)
    text = open_engine(open_checkpoint(bundled()).model(), "numpy")
    with pytest.raises(UnsupportedError, match="images are read by our own engines"):
        SeeingEngine(text, seen)
