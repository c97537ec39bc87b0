"""How an embedding model makes one vector of a text, as sentence-transformers saves it beside it.

modules.json lists the parts of such a model; that of the type Pooling has a folder of its own,
1_Pooling in most, whose config.json says how the tokens' states become one.
"""

from pathlib import Path
from typing import Any

from runtime.json_files import checked, json_value

MODULES = "modules.json"
MODE = "pooling_mode_"
POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
"""What follows MODE -> what llama.cpp calls it."""
PLAIN = ("Transformer", "Pooling", "Normalize")
"""Parts that an embedding model needs; readers of a GGUF normalize by themselves."""


def parts(folder: Path) -> list[dict[str, Any]]:
    """The parts of an embedding model, in their order; none of another model."""
    path = folder / MODULES
    return checked(json_value(path), list[dict[str, Any]], str(path)) if path.exists() else []


def pooling_file(folder: Path) -> Path | None:
    """The settings of the pooling within the folder, where there are any."""
    for part in parts(folder):
        place = str(part.get("path"))
        file = Path(place, "config.json")
        # a name that leads out of the folder is nobody's
        if _kind(part) == "Pooling" and Path(place).name == place and (folder / file).exists():
            return file
    return None


def pooling(folder: Path) -> str | None:
    """The pooling of an embedding model: one of POOLINGS' values, or how another one is called."""
    file = pooling_file(folder)
    if file is None:
        return None
    path = folder / file
    settings = checked(json_value(path), dict[str, Any], str(path))
    modes = [key.removeprefix(MODE) for key, on in settings.items() if key.startswith(MODE) and on]
    return POOLINGS.get(modes[0], modes[0]) if len(modes) == 1 else " and ".join(modes) or "none"


def notes(folder: Path) -> list[str]:
    """What becomes of an embedding model, in a sentence."""
    found = pooling(folder)
    if found is None:
        return []
    said = "says so" if found in POOLINGS.values() else "cannot say so"
    more = [f"{part.get('path')}" for part in parts(folder) if _kind(part) not in PLAIN]
    left = f"; {', '.join(more)} is left out" if more else ""
    return [
        f"{MODULES} makes the checkpoint an embedding model, with {found} pooling: a GGUF file "
        f"{said}, an ONNX folder has logits alone, and these are what is judged{left}"
    ]


def _kind(part: dict[str, Any]) -> str:
    """The class of a part, without its module."""
    return str(part.get("type", "")).rpartition(".")[2]
