"""Folders of packed linears that are artifacts: GPTQ and AWQ."""

from pathlib import Path

from runtime.checkpoint import open_model
from runtime.json_files import read_json
from runtime.quantized import settings_of
from runtime.reader import Reader
from runtime.sources import CONFIG


def method(folder: Path) -> str:
    """How config.json, or quantize_config.json beside it, says that linears were packed."""
    if not (folder / CONFIG).exists():
        return ""
    settings = settings_of(folder, read_json(folder / CONFIG)) or {}
    return str(settings.get("quant_method", ""))


GPTQ = Reader(
    "gptq", "a GPTQ folder", open_model, sign=CONFIG, is_kind=lambda path: method(path) == "gptq"
)
AWQ = Reader(
    "awq", "an AWQ folder", open_model, sign=CONFIG, is_kind=lambda path: method(path) == "awq"
)
