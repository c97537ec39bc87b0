"""Folders of packed linears that are artifacts: GPTQ and AWQ."""

from pathlib import Path

from runtime.checkpoint import open_model
from runtime.json_files import read_json
from runtime.reader import Reader
from runtime.sources import CONFIG


def method(folder: Path) -> str:
    """How config.json, or quantize_config.json beside it, says that linears were packed."""
    if not (folder / CONFIG).exists():
        return ""
    found = read_json(folder / CONFIG).get("quantization_config")
    if not isinstance(found, dict):
        beside = folder / "quantize_config.json"
        found = read_json(beside) if beside.exists() else {}
    return str(found.get("quant_method") or ("gptq" if found else ""))


GPTQ = Reader(
    "gptq", "a GPTQ folder", open_model, sign=CONFIG, is_kind=lambda path: method(path) == "gptq"
)
AWQ = Reader(
    "awq", "an AWQ folder", open_model, sign=CONFIG, is_kind=lambda path: method(path) == "awq"
)
