"""Text after images: our engines, transformers, and llama.cpp with the tower we write (mtmd)."""

import base64
import io
import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.mmproj import make
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from runtime.vision.encode import tower_tensors
from runtime.vision.image import Patches, patches_of, read_preparation
from runtime.vision.place import axes, with_room
from runtime.vision.seeing import SeeingEngine, SeenImages
from runtime.vision.tower import tower_of
from tests.interop.llama_servers import serving
from tests.small_models import kl
from tests.vision_models import IMAGE, MODELS, vision_model

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SIZES = [(84, 140), (280, 308), (112, 336)]
"""Multiples of 28 pixels, of at least 8 tokens: other images are resized, otherwise in each."""
NEW = 6


def drawing(size: tuple[int, int], seed: int) -> np.ndarray:
    """A disc, a bar and a gradient (h, w, 3): something to see."""
    high, wide = size
    rows, cols = np.indices(size)
    out = np.stack([rows * 255 // high, cols * 255 // wide, (rows + cols) % 256], axis=-1)
    out[(rows - high / 2) ** 2 + (cols - wide / 3) ** 2 < (high / (3 + seed)) ** 2] = (230, 20, 40)
    out[high // 4 : high // 3, wide // 2 :] = (10, 40 * seed, 250)
    return out.astype(np.uint8)


def seen_by(checkpoint: Checkpoint, images: Sequence[np.ndarray]) -> SeenImages:
    """Images as the model's tower sees them."""
    tower = tower_of(checkpoint.config)
    assert tower
    preparation = read_preparation(checkpoint.folder, tower)
    found = [patches_of(image, tower, preparation) for image in images]
    return SeenImages(tower, tower_tensors(tower, checkpoint.beside), found, IMAGE)


def pixels_of(images: Sequence[Patches]) -> dict[str, Any]:
    """What transformers calls them."""
    import torch

    values = np.concatenate([image.values for image in images])
    grids = [[1, image.rows, image.cols] for image in images]
    return {"pixel_values": torch.from_numpy(values), "image_grid_thw": torch.tensor(grids)}


@pytest.mark.parametrize("name", MODELS)
def test_logits_after_images_equal_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", MODELS[name]))
    images = [drawing(size, seed) for seed, size in enumerate(SIZES)]
    seen = seen_by(checkpoint, images)
    text = [5, 6, IMAGE, 7, 8, IMAGE, 9, IMAGE, 10, 11]
    ids = np.array([with_room(text, seen.images, 2, IMAGE)])
    auto = transformers.AutoModelForImageTextToText
    model = auto.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    kinds, inputs = torch.from_numpy((ids == IMAGE).astype(np.int64)), torch.from_numpy(ids)
    with torch.no_grad():
        out = model(inputs, mm_token_type_ids=kinds, **pixels_of(seen.images))
    expected = out.logits.numpy()
    for backend in ("numpy", "torch", "native"):
        engine = SeeingEngine(open_engine(checkpoint.model(), backend), seen)
        found = engine.logits(ids)
        assert kl(expected, found) < 1e-4
        if backend != "native":  # it rounds activations
            assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_places_of_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", MODELS[name]))
    seen = seen_by(checkpoint, [drawing(size, 1) for size in SIZES])
    ids = np.array(with_room([IMAGE, 7, 8, IMAGE, 9, IMAGE], seen.images, 2, IMAGE))
    auto = transformers.AutoModelForImageTextToText
    model = auto.from_pretrained(checkpoint.folder).model
    kinds = torch.from_numpy((ids == IMAGE).astype(np.int64))[None]
    grids = pixels_of(seen.images)["image_grid_thw"]
    expected, ahead = model.get_rope_index(torch.from_numpy(ids)[None], kinds, grids)
    found = axes(ids, seen.images, 2, IMAGE)
    np.testing.assert_array_equal(found, expected[:, 0].numpy())
    assert found.max() + 1 - len(ids) == int(ahead)


@contextmanager
def llama_server(model: Path, mmproj: Path) -> Iterator[Any]:
    """llama.cpp's server: a function that posts a prompt with an image."""
    pytest.importorskip("xllamacpp")
    paths = {"model__path": str(model), "mmproj__path": str(mmproj)}
    with serving(**paths, n_ctx=512, warmup=False) as address:
        yield posting(address)


def posting(address: str) -> Any:
    """A function that posts a prompt with an image to a server."""
    with urllib.request.urlopen(f"{address}/props") as answer:
        marker = json.loads(answer.read())["media_marker"]

    def post(before: str, image: np.ndarray, after: str) -> Any:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        data = [base64.b64encode(file.getvalue()).decode()]
        prompt = {"prompt_string": f"{before}{marker}{after}", "multimodal_data": data}
        body = {"prompt": prompt, "n_predict": NEW, "temperature": 0, "n_probs": 4000}
        request = urllib.request.Request(
            f"{address}/completion",
            json.dumps(body | {"cache_prompt": False, "return_tokens": True}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    return post


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "most"),
    [
        ("qwen2.5", "F32", 1e-4),
        ("qwen2", "F32", 1e-4),
        ("qwen2.5", "Q8_0", 2e-3),
        ("qwen2", "F16", 1e-4),
    ],
)
def test_llama_cpp_sees_what_we_see(name: str, kind: str, most: float, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "model", MODELS[name])
    checkpoint = open_checkpoint(folder)
    make(folder / "mmproj.gguf", str(folder), kind)
    done = edgequant.quantize(folder, "gguf:F32", folder / "out", method="rtn", check=False)
    path, encode = done.artifacts[0].path, checkpoint.tokenizer.encode
    engine = open_engine(open_gguf(path), "numpy")
    with llama_server(path, folder / "mmproj.gguf") as post:
        for seed, size in enumerate(SIZES):
            image = drawing(size, seed)
            answer = post("The history ", image, " of the")
            seen = seen_by(checkpoint, [image])
            words = [*encode("The history "), *encode("<|vision_start|>"), IMAGE]
            words += [*encode("<|vision_end|>"), *encode(" of the")]
            prompt = with_room(words, seen.images, 2, IMAGE)
            new = answer["tokens"]
            ids = np.array([prompt + new[:-1]])
            expected = SeeingEngine(engine, seen).logits(ids)[0, len(prompt) - 1 :]
            blind = engine.logits(ids)[0, len(prompt) - 1]
            assert kl(expected[0], blind) > 0.1
            first = answer["completion_probabilities"][0]["top_logprobs"]
            found = {one["id"]: one["logprob"] for one in first}
            there = np.array(sorted(found))
            assert len(there) == 4000
            assert kl(expected[0, there], np.array([found[token] for token in there])) < most
            # what it picks is what we pick, but where two tokens are nearly as likely
            picked = expected[np.arange(NEW), new]
            assert (picked > expected.max(-1) - 20 * most**0.5).all()
