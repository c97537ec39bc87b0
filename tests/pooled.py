"""Files of sentence-transformers beside a checkpoint."""

import json
from pathlib import Path

PARTS = ("Transformer", "Pooling", "Normalize")


def add_pooling(folder: Path, *modes: str, place: str = "1_Pooling", more: str = "") -> None:
    """Make a checkpoint an embedding model, with the pooling modes that are on.

    `more`: the class of one more part.
    """
    kinds = [*PARTS, *([more] if more else [])]
    paths = ["", place, *(f"{at}_{kind}" for at, kind in enumerate(kinds) if at > 1)]
    parts = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / place).mkdir(exist_ok=True)
    names = {"cls_token", "mean_tokens", "lasttoken", *modes}
    settings = {f"pooling_mode_{name}": name in modes for name in sorted(names)}
    (folder / place / "config.json").write_text(json.dumps(settings | {"include_prompt": True}))
