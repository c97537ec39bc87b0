"""The small files of a folder of packed linears, and what they must be."""

from pathlib import Path

from export import genai
from export.packed import maker
from export.packed_tower import preparation
from export.stated import Stated, files_of, json_or_bytes
from runtime.archs import Arch
from runtime.sources import CONFIG
from runtime.tokenizer import Tokenizer
from runtime.vision.vision import Vision

METHOD = "quantization_config"
"""What of config.json is not the checkpoint's: readers find the linears by it."""
BESIDE = "quantize_config.json"
"""The same once more."""


def stated(path: Path, arch: Arch, source: Path, vision: Vision | None) -> Stated:
    """The settings and the tokenizer of a folder made from the folder `source`.

    What another program wrote is not compared here: it may say the same in other words.
    """
    if maker(path) != "edgequant":
        return Stated({}, {}, whole=False)
    files = genai.copied_files(source, arch, Tokenizer.from_folder(source))
    files |= preparation(source) if vision else {}
    told = {"torch_dtype": "float16", "dtype": "float16"}
    settings = json_or_bytes((path / CONFIG).read_bytes())
    if isinstance(settings, dict) and METHOD in settings:
        told[METHOD] = settings[METHOD]
        if (path / BESIDE).exists():
            files[BESIDE] = genai.json_bytes(settings[METHOD])
    files[CONFIG] = genai.json_bytes(json_or_bytes(files[CONFIG]) | told)
    weights = (p.name for p in path.iterdir() if p.name.startswith("model"))
    return files_of(path, files, frozenset(weights))
