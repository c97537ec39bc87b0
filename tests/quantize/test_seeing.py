"""`generate --image`: files, their places in a prompt, and what is wrong with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import edgequant
from calib_data.drawings import drawings
from quantize.checkpoint import bundled, open_checkpoint
from quantize.cli.program import app
from quantize.mmproj import make
from quantize.seeing import image_prompt
from quantize.vision import open_vision
from runtime.engine import open_engine
from runtime.errors import InputError, UnsupportedError
from runtime.generate import generate
from runtime.gguf_file import read
from runtime.vision.place import with_room
from tests.one_file_models import weights
from tests.vision_models import IMAGE, QWEN25, vision_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vision_model(tmp_path / "x", QWEN25)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, drawing in zip(paths, drawings(2), strict=True):
        Image.fromarray(drawing.pixels).save(path)
    return paths


def printed(*words: str) -> str:
    done = CliRunner().invoke(app, ["generate", *words, "-n", "6", "--json"])
    assert done.exit_code == 0, done.exception
    return str(json.loads(done.stdout)["text"])


def test_a_prompt_with_images_goes_on_as_its_tokens_do(folder: Path, images: list[Path]) -> None:
    checkpoint = open_checkpoint(folder)
    tokenizer = checkpoint.tokenizer
    found = image_prompt(images, folder, None, tokenizer)
    ids = [4096, IMAGE, 4097, 4096, IMAGE, 4097, *tokenizer.encode("The town")]
    room = with_room(ids, found.seen.images, 2, IMAGE)
    assert tokenizer.encode(found.with_room(found.placed("The town"))) == room
    engine = found.engine(open_engine(checkpoint.model(), "native"))
    expected = tokenizer.decode(list(generate(engine, room, 6)))
    flags = [word for image in images for word in ("--image", str(image))]
    assert printed(str(folder), "The town", *flags) == expected
    assert printed(str(folder), "The town") != expected


def test_a_quantized_file_sees_through_the_tower_of_its_checkpoint(
    folder: Path, images: list[Path], tmp_path: Path
) -> None:
    done = edgequant.quantize(folder, "gguf:F32", tmp_path / "out", method="rtn", check=False)
    path, image = str(done.artifacts[0].path), str(images[0])
    prompt = "A <|vision_start|><|image_pad|><|vision_end|> town"
    found = printed(path, prompt, "--image", image, "--tower", str(folder))
    assert found == printed(str(folder), prompt, "--image", image)
    with pytest.raises(InputError, match="has no vision tower for this backend; give --tower"):
        image_prompt(images, done.artifacts[0].path, None, open_checkpoint(folder).tokenizer)


def test_chats_hold_images_as_well(folder: Path, images: list[Path]) -> None:
    found = printed(str(folder), "What is it?", "--chat", "--image", str(images[0]))
    assert found != printed(str(folder), "What is it?", "--chat")


def test_bad_input_is_one_sentence(folder: Path, images: list[Path], tmp_path: Path) -> None:
    tokenizer = open_checkpoint(folder).tokenizer
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(InputError, match="no.png does not open as an image"):
        image_prompt([tmp_path / "no.png"], folder, None, tokenizer)
    with pytest.raises(InputError, match="reads no images: its config.json has no vision_config"):
        image_prompt(images, bundled(), None, tokenizer)
    with pytest.raises(InputError, match="t.gguf is a file for llama.cpp's --mmproj; give --tower"):
        image_prompt(images, folder, str(tmp_path / "t.gguf"), tokenizer)
    with pytest.raises(InputError, match=r"has no tokens \[4096, 4098, 4097\]"):
        image_prompt(images, folder, None, open_checkpoint(bundled()).tokenizer)
    found = image_prompt(images, folder, None, tokenizer)
    with pytest.raises(InputError, match=r"has 1 times <\|image_pad\|>, and 2 images"):
        found.placed("<|image_pad|>")
    text = open_engine(open_checkpoint(bundled()).model(), "numpy")
    with pytest.raises(InputError, match="makes embeddings of 64 channels, and the model has"):
        found.engine(text)
    done = CliRunner().invoke(app, ["generate", str(folder), "x", "--image", "gone.png"])
    assert isinstance(done.exception, InputError)
    assert "gone.png does not exist" in str(done.exception)


def test_an_onnx_folder_sees_with_its_own_tower(
    folder: Path, images: list[Path], tmp_path: Path
) -> None:
    done = edgequant.quantize(folder, "onnx:fp32", tmp_path / "out", method="rtn", check=False)
    path, flags = str(done.artifacts[0].path), ["--image", str(images[0])]
    found = printed(path, "The town", *flags)
    assert found == printed(str(folder), "The town", *flags, "--backend", "numpy")
    native = ["--backend", "native", "--tower", str(folder)]
    assert printed(path, "The town", *flags, *native)
    error = CliRunner().invoke(app, ["generate", path, "x", *flags, *native[2:]]).exception
    assert isinstance(error, InputError)
    assert "with the vision tower in its own folder alone; leave --tower out" in str(error)
    error = CliRunner().invoke(app, ["generate", path, "x", *flags, *native[:2]]).exception
    assert isinstance(error, InputError)
    assert "has no vision tower for this backend; give --tower" in str(error)


def test_an_onnx_folder_of_text_takes_no_images(images: list[Path], tmp_path: Path) -> None:
    done = edgequant.quantize(None, "onnx:fp32", tmp_path / "out", method="rtn", check=False)
    path = str(done.artifacts[0].path)
    words = ["generate", path, "x", "--image", str(images[0])]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError)
    assert "has no vision tower for this backend" in str(error)


@pytest.mark.parametrize("backend", ["transformers", "llamacpp"])
def test_a_backend_that_takes_no_images_is_named_before_work(
    backend: str, folder: Path, images: list[Path]
) -> None:
    words = ["generate", str(folder), "x", "--image", str(images[0]), "--backend", backend]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UnsupportedError)
    assert f"the backend {backend} is given no images here; give a checkpoint" in str(error)


def test_a_tower_without_images_is_told(folder: Path) -> None:
    words = ["generate", str(folder), "x", "--tower", str(folder)]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError)
    assert "--tower is for images; give --image as well" in str(error)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_a_place_without_an_image_is_told(chat: bool, token: str, folder: Path) -> None:
    said = f"the prompt has {token}, which stands for what the model is not given: take it out"
    words = ["generate", str(folder), f"A {token} town", *["--chat"] * chat]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError) and said in str(error)
    prompt: Any = [{"role": "user", "content": f"A {token}"}] if chat else f"A {token} town"
    with pytest.raises(InputError) as caught:
        edgequant.load(folder).generate(prompt, 2)
    assert said in str(caught.value)


def test_a_place_without_an_image_is_told_of_artifacts(folder: Path, tmp_path: Path) -> None:
    flags: Any = {"method": "rtn", "check": False}
    done = edgequant.quantize(folder, ["gguf:F16", "onnx:fp32"], tmp_path / "out", **flags)
    for made in done.artifacts:
        with pytest.raises(InputError, match=r"the prompt has <\|video_pad\|>"):
            edgequant.load(made.path).generate("A <|video_pad|> town", 2)
        assert edgequant.load(made.path).generate("A town", 2)


def test_places_beyond_the_images_are_told(folder: Path, images: list[Path]) -> None:
    image = ["--image", str(images[0])]
    words = ["generate", str(folder), "What?", "--chat", "--system", "See <|image_pad|>.", *image]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError)
    assert "the prompt has 2 times <|image_pad|>, and 1 images were given" in str(error)
    error = CliRunner().invoke(app, ["generate", str(folder), "<|video_pad|>", *image]).exception
    assert isinstance(error, InputError) and "the prompt has <|video_pad|>" in str(error)


def test_a_model_of_text_alone_has_no_such_places() -> None:
    assert edgequant.load(bundled()).generate("A <|image_pad|> town", 2)


@pytest.mark.slow
def test_another_models_tower_is_told(folder: Path, images: list[Path], tmp_path: Path) -> None:
    flags: Any = {"method": "rtn", "check": False}
    done = edgequant.quantize(folder, ["gguf:F16", "onnx:fp32"], tmp_path / "out", **flags)
    tokenizer = open_checkpoint(folder).tokenizer
    other, same = vision_model(tmp_path / "other", QWEN25, seed=1), tmp_path / "same"
    shutil.copytree(folder, same)
    weights(same, lambda v: {n: x.float() if "visual" in n else x for n, x in v.items()})
    for file in [folder, *(made.path for made in done.artifacts)]:
        assert image_prompt(images, file, str(folder), tokenizer).note is None
        assert image_prompt(images, file, str(same), tokenizer).note is None
        with pytest.raises(InputError, match="with another vision tower than other has; give --to"):
            image_prompt(images, file, str(other), tokenizer)
    mmproj = tmp_path / "mmproj.gguf"
    make(mmproj, str(folder))
    vision = open_vision(open_checkpoint(folder))
    assert vision
    assert read(mmproj).metadata["edgequant.vision_sha256"] == vision.sha256()


def test_a_file_that_does_not_name_its_tower_is_told_of(
    folder: Path, images: list[Path], tmp_path: Path
) -> None:
    done = edgequant.quantize(folder, "gguf:F16", tmp_path, method="rtn", check=False)
    path = done.artifacts[0].path
    path.write_bytes(
        path.read_bytes().replace(b"edgequant.vision_sha256", b"edgequant.vision_sha25x")
    )
    words = ["generate", str(path), "A", "-n", "2", "--tower", str(folder), "--image"]
    done_again = CliRunner().invoke(app, [*words, str(images[0])])
    assert done_again.exit_code == 0
    assert "does not say which vision tower it was trained with" in done_again.stderr
