"""What onnxruntime-genai reads of a model that reads images: parts of genai_config.json, and a file
that says how images become patches.

Its name is not genai's usual processor_config.json: transformers has another file of that name.
genai finds images in a prompt by the texts of Qwen's tokens, whatever their ids are.
"""

from pathlib import Path
from typing import Any

from export.onnx_seeing import EMBEDS, PLACES
from export.onnx_tower import FEATURES, GRID, PIXELS
from export.sight import Sight
from runtime.config_file import read_config
from runtime.onnx_file import EMBEDDING_MODEL, VISION_MODEL
from runtime.tokenizer import Tokenizer
from runtime.vision.ids import IDS, checked_id, image_ids
from runtime.vision.image import FILES
from runtime.vision.tower import Tower

PROCESSOR = "vision_processor.json"
TEXTS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
VIDEO = "video_token_id"
SESSION = {"log_id": "onnxruntime-genai", "provider_options": []}


SEEING = """```sh
quantize generate {file} "What is it?" --chat --image cat.png
```

```python
import onnxruntime_genai as og

model = og.Model({literal})
processor = model.create_multimodal_processor()
prompt = "<|vision_start|><|image_pad|><|vision_end|>What is it?"
params = og.GeneratorParams(model)
params.set_search_options(max_length=2048)
generator = og.Generator(model, params)
generator.set_inputs(processor(prompt, images=og.Images.open("cat.png")))
while not generator.is_done():
    generator.generate_next_token()
print(og.Tokenizer(model).decode(generator.get_sequence(0)))
```"""


def sections(sight: Sight, source: Path, vocab: int) -> dict[str, Any]:
    """What the model of genai_config.json has beside that of one that reads text."""
    start, token, _ = sight.ids
    tower, settings = sight.vision.tower, read_config(source)
    ids = {IDS[0]: start, IDS[1]: token}
    if VIDEO in settings:
        # genai neither sees nor counts pad tokens in a prompt of such a model, wherever they
        # stand, and the usual one may stand between texts; of videos it reads none
        ids[VIDEO] = ids["pad_token_id"] = checked_id(VIDEO, settings[VIDEO], vocab)
    embedding = {
        "filename": EMBEDDING_MODEL,
        "session_options": SESSION,
        "inputs": {"input_ids": "input_ids", FEATURES: FEATURES},
        "outputs": {EMBEDS: EMBEDS},
    }
    vision = {
        "filename": VISION_MODEL,
        "config_filename": PROCESSOR,
        "session_options": SESSION,
        "spatial_merge_size": tower.merge,
        "patch_size": tower.patch,
        "window_size": tower.window,
        "inputs": {PIXELS: PIXELS, GRID: GRID},
        "outputs": {FEATURES: FEATURES},
    }
    return ids | {"embedding": embedding, "vision": vision}


def notes(tokenizer: Tokenizer, source: Path) -> tuple[str, ...]:
    """A sentence where the tokens of images have other texts than genai looks for."""
    config, backend = read_config(source), tokenizer.backend
    ids = image_ids(config, backend.get_vocab_size()) if config.get("vision_config") else None
    texts = [backend.id_to_token(token) for token in ids] if ids else list(TEXTS)
    if texts == list(TEXTS):
        return ()
    return (
        f"onnxruntime-genai finds images by the tokens {', '.join(TEXTS)}, and this model's are "
        f"{', '.join(map(str, texts))}: give it patches and ids, or run onnxruntime",
    )


def decoder_inputs() -> dict[str, str]:
    """In place of input_ids."""
    return {EMBEDS: EMBEDS, PLACES: PLACES}


def preparation_files(source: Path) -> dict[str, bytes]:
    """The checkpoint's own files about images, as far as there are any: name -> bytes."""
    return {name: (source / name).read_bytes() for name in FILES if (source / name).exists()}


def processor(sight: Sight) -> dict[str, Any]:
    """The steps from an image file to patches."""
    tower, preparation = sight.vision.tower, sight.vision.preparation
    mean, std = list(preparation.mean), list(preparation.std)
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        ("resize", "Resize", _resize(sight)),
        ("rescale", "Rescale", {"rescale_factor": 1 / 255}),
        ("normalize", "Normalize", {"mean": mean, "std": std, "qwen2_5_vl": 1}),
        ("patch_image", "PatchImage", _sizes(tower) | {"temporal_patch_size": tower.temporal}),
    ]
    transforms = [
        {"operation": {"name": name, "type": kind} | ({"attrs": attrs} if attrs else {})}
        for name, kind, attrs in steps
    ]
    return {"processor": {"name": "qwen2_5_image_processor", "transforms": transforms}}


def _resize(sight: Sight) -> dict[str, Any]:
    """Width and height stand for nothing: the step finds them for each image."""
    tower, preparation = sight.vision.tower, sight.vision.preparation
    unit = tower.patch * tower.merge
    bounds = {"min_pixels": preparation.least, "max_pixels": preparation.most}
    return {"width": unit, "height": unit, "smart_resize": 1} | bounds | _sizes(tower)


def _sizes(tower: Tower) -> dict[str, int]:
    return {"patch_size": tower.patch, "merge_size": tower.merge}
