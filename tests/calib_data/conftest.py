"""Files to load, a small builtin and a stand-in for the hub."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calib_data import manifest, sources


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    def write_one(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_one


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small builtin: two domains of text and one of conversations."""
    folder = tmp_path / "bundle"
    (folder / "texts").mkdir(parents=True)
    monkeypatch.setattr(sources, "FOLDER", folder)
    (folder / "MANIFEST.toml").write_text("[mix]\nprose = 0.5\ncode = 0.25\nchat = 0.25\n")
    for domain, letter in (("prose", "p"), ("code", "c")):
        documents = [f"{letter}{number:03d}" * 8 for number in range(40)]  # 32 bytes each
        (folder / "texts" / f"{domain}.all.txt").write_text("\n%%\n".join(documents))
    chats = [[{"role": "user", "content": f"h{number:03d}" * 6}] for number in range(20)]
    lines = [json.dumps({"messages": messages}) for messages in chats]
    (folder / "texts" / "chat.all.jsonl").write_text("\n".join(lines))
    manifest.main()
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A fake `datasets` whose answer is hub["rows"] and whose last call is hub["call"]."""
    state: dict[str, Any] = {"rows": [], "read": 0}

    def load_dataset(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        state["call"] = (args, kwargs)
        if isinstance(state["rows"], Exception):
            raise state["rows"]
        return stream()

    def stream() -> Iterator[dict[str, Any]]:
        for row in state["rows"]:
            state["read"] += 1
            yield row

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return state
