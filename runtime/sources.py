"""What a source is that is no checkpoint: each kind is named, with the way out.

A checkpoint is recognised by its files; what lies beside it and is not read is told.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ORIGINAL = "give the folder of the checkpoint that it was made from"


class Kind(NamedTuple):
    """Files that are not read, by their names."""

    patterns: tuple[str, ...]
    what: str
    way_out: str


KINDS = (
    Kind(
        ("*.gguf",),
        "GGUF, which is converted already",
        f"{ORIGINAL}, or name the file itself, whose weights are then the original",
    ),
    Kind(
        ("model.onnx", "*.onnx", "onnx/*.onnx"),
        "ONNX, which is converted already",
        f"{ORIGINAL}, or run the folder with `quantize generate` and hold it against that "
        "checkpoint with `quantize check`",
    ),
    Kind(("openvino_model.xml", "openvino*.xml"), "OpenVINO, which is converted already", ORIGINAL),
    Kind(("*.engine", "*.plan", "*.trt"), "TensorRT, which is converted already", ORIGINAL),
    Kind(
        ("*.mlpackage", "*.mlmodel", "*.mlmodelc"), "Core ML, which is converted already", ORIGINAL
    ),
    Kind(("*.tflite", "*.litertlm", "*.task"), "LiteRT, which is converted already", ORIGINAL),
    Kind(("mlc-chat-config.json",), "MLC, which is converted already", ORIGINAL),
    Kind(
        ("model_index.json",),
        "a diffusion pipeline",
        "give a language model: image models are not quantized here",
    ),
    Kind(
        ("consolidated*.safetensors", "consolidated*.pth"),
        "the layout of Meta's or Mistral's own releases",
        f"give the same model as Hugging Face has it, with {CONFIG} and {WEIGHTS}",
    ),
    Kind(
        ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl"),
        "pickled weights, which can run code when opened",
        "convert them to safetensors with transformers: "
        "from_pretrained(...).save_pretrained(...), and give that folder",
    ),
    Kind(
        ("tf_model.h5", "*.h5", "flax_model.msgpack", "*.msgpack"),
        "weights of TensorFlow or Flax",
        "load them with transformers, save_pretrained(...), and give that folder",
    ),
    Kind(
        ("*.zip", "*.tar", "*.tar.gz", "*.tgz", "*.7z"),
        "an archive",
        "unpack it, and give the folder of the checkpoint",
    ),
)
"""The first that fits is named, so what says most comes first."""


def refuse_other_kinds(path: Path) -> None:
    """Raise EdgequantError where there is no checkpoint: a file, another format, nothing at all."""
    if not path.is_dir():
        raise _file_error(path)
    if not any(path.iterdir()):
        raise InputError(f"{path} is empty; give the folder of a Hugging Face checkpoint.")
    if (path / CONFIG).exists():
        return
    for kind, names in _found(path):
        raise _another_kind(path, kind, names)
    inner = sorted(found.parent for found in path.glob("*/config.json"))
    inner = inner or sorted(found.parent for found in path.glob("snapshots/*/config.json"))
    if inner:
        raise InputError(
            f"{path} has no {CONFIG}, but {_listed([str(found) for found in inner])} "
            f"{'has' if len(inner) == 1 else 'have'}; give that folder."
        )
    raise InputError(f"{path} has no {CONFIG}; give the folder of a Hugging Face checkpoint.")


def no_weights(folder: Path) -> EdgequantError:
    """The error of a folder with config.json and without the weights of a checkpoint."""
    shards = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if len(shards) == 1 and not shards[0].startswith("consolidated") and "-of-" not in shards[0]:
        return CorruptFileError(
            f"{folder} holds no {WEIGHTS}, but {shards[0]}; rename that if it is the whole model."
        )
    if any(not name.startswith("consolidated") for name in shards):
        return CorruptFileError(
            f"{folder} holds no {WEIGHTS}, and no {INDEX} for {_listed(shards)}; download it."
        )
    for kind, names in _found(folder):
        return _another_kind(folder, kind, names)
    return CorruptFileError(f"{folder} holds no {WEIGHTS} and no {INDEX}; download the weights.")


def _another_kind(folder: Path, kind: Kind, names: list[str]) -> EdgequantError:
    return UnsupportedError(f"{folder} holds {kind.what} ({_listed(names)}); {kind.way_out}.")


def unread(folder: Path) -> list[str]:
    """A note for each kind of other model that lies beside a checkpoint."""
    return [
        f"the checkpoint was read, not {_listed(names)} beside it"
        for kind, names in _found(folder)
        if kind.way_out.startswith(ORIGINAL)
    ]


def quantized_as(config: dict[str, object], settings: dict[str, object] | None) -> str | None:
    """How config.json says that the weights were rounded, None where it says nothing.

    `settings`: quantization_config, or what stands in its place; `quantization` is what MLX writes.
    """
    values = settings if settings is not None else config.get("quantization")
    if values is None:
        return None
    found = values if isinstance(values, dict) else {}
    by = found.get("quant_method") or ("MLX" if config.get("quantization") else "")
    bits = found.get("bits") or next((b for b in (4, 8) if found.get(f"load_in_{b}bit")), "")
    return ", ".join(filter(None, [str(by), f"{bits} bits" if bits else ""])) or "unnamed method"


def _file_error(path: Path) -> EdgequantError:
    """The error of a source that is a file."""
    if path.suffix == ".safetensors" and not path.name.startswith("consolidated"):
        where = f"give their folder {path.parent}"
        if not (path.parent / CONFIG).exists():
            where = f"give a folder that also has {CONFIG} and the tokenizer's files"
        return InputError(f"{path} holds the weights alone; {where}.")
    for kind in KINDS:
        if any(path.match(pattern) for pattern in kind.patterns):
            return UnsupportedError(f"{path} is {kind.what}; {kind.way_out}.")
    return InputError(f"{path} is a file; give the folder that holds {CONFIG}.")


def _found(folder: Path) -> Iterator[tuple[Kind, list[str]]]:
    """Kinds of files in a folder, with their names."""
    for kind in KINDS:
        names = {str(p.relative_to(folder)) for glob in kind.patterns for p in folder.glob(glob)}
        if names:
            yield kind, sorted(names)


def _listed(names: list[str]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
