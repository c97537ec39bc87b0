"""The small files of a merged model: config.json, and the tokenizer it was trained with."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.adapter import Adapter
from runtime.added_tokens import TOKENIZER_FILES
from runtime.pooling import MODULES, pooling_file
from runtime.vision.image import FILES as PREPARATION

TEMPLATES = "additional_chat_templates"
OTHERS = ("generation_config.json", "README.md", "LICENSE", *PREPARATION)
"""Further files of a base that its artifacts read."""


class SmallFiles:
    """A folder that lives as long as this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edgequant-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def tokenizer_folder(base: Path, adapters: Sequence[Adapter]) -> tuple[Path, list[str]]:
    """Where the tokenizer is, the last adapter that brings another one or the base; and notes."""
    chosen, notes = base, []
    for adapter in adapters:
        brought = [name for name in TOKENIZER_FILES if (adapter.folder / name).is_file()]
        if not any(_differs(name, adapter.folder, base) for name in brought):
            continue
        if "tokenizer.json" not in brought:
            notes.append(
                f"the adapter {adapter.name} has {brought[0]} but no tokenizer.json, so the base's "
                "tokenizer is used"
            )
            continue
        chosen = adapter.folder
        notes.append(f"the tokenizer of the adapter {adapter.name} is used, not that of its base")
    return chosen, notes


def _differs(name: str, one: Path, other: Path) -> bool:
    return not (other / name).is_file() or (one / name).read_bytes() != (other / name).read_bytes()


def small_files(base: Path, tokenizer: Path, config: dict[str, Any]) -> SmallFiles:
    """A folder with this config.json and the tokenizer of another folder, the rest as in `base`."""
    made = SmallFiles()
    (made.path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for folder, names in ((base, OTHERS), (tokenizer, TOKENIZER_FILES)):
        for name in names:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made.path / name)
    if pooling := pooling_file(base):
        (made.path / pooling).parent.mkdir(parents=True)
        for name in (MODULES, str(pooling)):
            shutil.copyfile(base / name, made.path / name)
    if (tokenizer / TEMPLATES).is_dir():
        shutil.copytree(tokenizer / TEMPLATES, made.path / TEMPLATES)
    return made
