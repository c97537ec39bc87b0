"""Text after images in onnxruntime-genai, from the folders that we write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
from runtime.vision.place import with_room
from runtime.vision.seeing import SeeingEngine
from tests.interop.test_images_llamacpp import SIZES, drawing, pixels_of, seen_by
from tests.one_file_models import edit
from tests.small_models import kl
from tests.vision_models import IMAGE, MODELS, vision_model

og = pytest.importorskip(
    "onnxruntime_genai",
    reason="onnxruntime-genai is not installed: pip install 'edgequant[interop]'",
)
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

NEW = 6
READ = ("input_ids", "pixel_values", "image_grid_thw")
PLACE = "<|vision_start|><|image_pad|><|vision_end|>"


class Genai:
    """A folder in onnxruntime-genai."""

    def __init__(self, folder: Path) -> None:
        self.model = og.Model(str(folder))
        self.processor = self.model.create_multimodal_processor()

    def read(self, text: str, files: Sequence[Path]) -> dict[str, Any]:
        """A prompt as tokens and patches."""
        images = og.Images.open(*map(str, files))
        found = self.processor(text, images=images)
        return {name: found[name].as_numpy() for name in READ}

    def generator(self) -> Any:
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=400, do_sample=False)
        return og.Generator(self.model, params)

    def answer(self, text: str, files: Sequence[Path]) -> tuple[list[int], np.ndarray]:
        """NEW tokens after a prompt, greedily, and the logits that each was chosen by."""
        generator = self.generator()
        images = og.Images.open(*map(str, files))
        generator.set_inputs(self.processor(text, images=images))
        tokens, logits = [], []
        for _ in range(NEW):
            generator.generate_next_token()
            tokens.append(int(generator.get_sequence(0)[-1]))
            logits.append(last_logits(generator))
        return tokens, np.stack(logits)


def last_logits(generator: Any) -> np.ndarray:
    out = np.asarray(generator.get_output("logits"))
    return out.reshape(-1, out.shape[-1])[-1].copy()


def saved(images: Sequence[np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def written(folder: Path, target: str) -> Path:
    done = edgequant.quantize(folder, target, folder / "out", method="rtn", check=False)
    return done.artifacts[0].path


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fp32", "int4"])
@pytest.mark.parametrize("name", MODELS)
def test_genai_sees_what_we_see(name: str, preset: str, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", MODELS[name])
    checkpoint, path = open_checkpoint(folder), written(folder, f"onnx:{preset}")
    genai, encode = Genai(path), checkpoint.tokenizer.encode
    original = open_engine(checkpoint.model(), "numpy")
    ours = open_engine(path, "onnxruntime")
    drawings = [drawing(size, seed) for seed, size in enumerate(SIZES)]
    files = saved(drawings, tmp_path)
    # each by itself, and two of other sizes in one prompt
    for chosen in ([0], [1], [2], [2, 0]):
        seen = seen_by(checkpoint, [drawings[number] for number in chosen])
        text = "The history " + " and ".join([PLACE] * len(chosen)) + " of the"
        prompt = with_room(encode(text), seen.images, 2, IMAGE)
        tokens, logits = genai.answer(text, [files[number] for number in chosen])
        ids = np.array([prompt + tokens[:-1]])
        found = SeeingEngine(ours, seen).logits(ids)[0, len(prompt) - 1 :]
        assert kl(found, logits) < (1e-6 if preset == "fp32" else 2e-3)  # 8-bit activations
        expected = SeeingEngine(original, seen).logits(ids)[0, len(prompt) - 1 :]
        if preset == "fp32":
            assert kl(expected, logits) < 1e-6
            assert tokens == expected.argmax(-1).tolist()
        blind = original.logits(ids)[0, len(prompt) - 1 :]
        assert kl(expected, logits) < 0.5 * kl(expected, blind)


@pytest.mark.slow
def test_its_logits_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = vision_model(tmp_path / "x", MODELS["qwen2.5"])
    checkpoint, genai = open_checkpoint(folder), Genai(written(folder, "onnx:fp32"))
    auto = transformers.AutoModelForImageTextToText
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    for seed, size in enumerate(SIZES):
        image = drawing(size, seed)
        tokens, logits = genai.answer(f"A {PLACE} of the", saved([image], tmp_path))
        seen = seen_by(checkpoint, [image])
        prompt = checkpoint.tokenizer.encode(f"A {PLACE} of the")
        room = with_room(prompt, seen.images, 2, IMAGE)
        ids = torch.tensor([room + tokens[:-1]])
        kinds = (ids == IMAGE).long()
        with torch.no_grad():
            out = model(ids, mm_token_type_ids=kinds, **pixels_of(seen.images))
        assert kl(out.logits[0, len(room) - 1 :].numpy(), logits) < 1e-6


@pytest.mark.parametrize("size", [(20, 30), (100, 150), (300, 500), (84, 112)])
def test_images_are_made_ready_as_ours_are(size: tuple[int, int], tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", MODELS["qwen2.5"])
    edit(folder, "preprocessor_config.json", min_pixels=6272, max_pixels=50000)
    checkpoint, genai = open_checkpoint(folder), Genai(written(folder, "onnx:fp32"))
    image = drawing(size, 1)
    found = genai.read(PLACE, saved([image], tmp_path))
    (expected,) = seen_by(checkpoint, [image]).images
    np.testing.assert_array_equal(found["image_grid_thw"], [[1, expected.rows, expected.cols]])
    # one grey level is 0.015 here
    assert np.abs(found["pixel_values"] - expected.values).max() < 1e-5
    prompt = with_room([4096, IMAGE, 4097], [expected], 2, IMAGE)
    assert found["input_ids"].reshape(-1).tolist() == prompt


@pytest.mark.slow
def test_what_a_model_card_says_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = vision_model(tmp_path / "x", MODELS["qwen2"])
    path = written(folder, "onnx:fp32")
    (file,) = saved([drawing((84, 140), 1)], tmp_path)
    code = CONTAINERS["onnx"].seeing.split("```python\n")[1].removesuffix("```")
    code = code.replace("{literal}", repr(str(path))).replace("cat.png", str(file))
    exec(code.replace("2048", "40"), {})  # room for 15 tokens of the image and some more
    assert "What is it?" in capsys.readouterr().out


def test_text_alone_goes_on_as_text(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", MODELS["qwen2.5"])
    engine = open_engine(open_checkpoint(folder).model(), "numpy")
    generator = Genai(written(folder, "onnx:fp32")).generator()
    end = open_checkpoint(folder).tokenizer.eos[-1]  # of generation_config.json also the pad token
    ids: list[int] = []
    for part in ([5, 6, end, 8, 9], [11, 12]):
        ids += part
        generator.append_tokens(np.array(part, np.int32))
        assert kl(engine.logits(np.array([ids]))[0, -1], last_logits(generator)) < 1e-6
