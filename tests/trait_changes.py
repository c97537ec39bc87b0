"""What is done to a small model to give it a trait of real checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import load_file, save_file

from tests import tokenizers_made
from tests.one_file_models import INDEX, SINGLE, edit, own_head, weights

Change = Callable[[Path], Any]


def nothing(folder: Path) -> None:
    """The model as it is made."""


def dtype(*kinds: torch.dtype) -> Change:
    """Weights in these types, in turn."""

    def change(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = enumerate(sorted(values))
        return {name: values[name].to(kinds[at % len(kinds)]) for at, name in names}

    return lambda folder: weights(folder, change)


def bare(folder: Path) -> None:
    """Names as the model inside has them, without `model.`."""
    weights(folder, lambda w: {name.removeprefix("model."): value for name, value in w.items()})


def shards(folder: Path) -> None:
    """One file for each tensor, and an index."""
    values = load_file(folder / SINGLE)
    table = {name: f"part-{at}.safetensors" for at, name in enumerate(values)}
    for name, file in table.items():
        save_file({name: values[name]}, folder / file, metadata={"format": "pt"})
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def large_key_biases(folder: Path) -> None:
    """Key biases of norm 900, as Qwen2.5 has them."""

    def grow(values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            if name.endswith("k_proj.bias"):
                values[name] = value / value.norm() * 900

    weights(folder, grow)


def nan_rows(folder: Path) -> None:
    """NaN in rows of the embedding that no token uses."""

    def spoil(values: dict[str, torch.Tensor]) -> None:
        values["model.embed_tokens.weight"][4150:] = float("nan")

    weights(folder, spoil)


def integers(folder: Path) -> None:
    """A weight in int8, with a config that says so."""
    weights(
        folder,
        lambda w: w.update(
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 64, dtype=torch.int8)}
        ),
    )
    edit(folder, "config.json", quantization_config={"quant_method": "int8"})


def added(file: str = "tokenizer_config.json", **flags: Any) -> Change:
    """A token of id 4096 that only one file names."""

    def change(folder: Path) -> None:
        text = "<|tool|>"
        if file == "added_tokens.json":
            edit(folder, file, **{text: 4096})
            edit(folder, "tokenizer_config.json", added_tokens_decoder=...)
            return
        path = folder / "tokenizer_config.json"
        decoder = json.loads(path.read_text()).get("added_tokens_decoder", {})
        decoder["4096"] = {"content": text, "special": True} | flags
        edit(folder, path.name, added_tokens_decoder=decoder)

    return change


def hole(folder: Path) -> None:
    """A token whose id leaves others out."""
    path = folder / "tokenizer_config.json"
    decoder = json.loads(path.read_text()).get("added_tokens_decoder", {})
    edit(folder, path.name, added_tokens_decoder=decoder | {"4100": {"content": "<|far|>"}})


def around(before: tuple[str, ...] = (), after: tuple[str, ...] = (), **named: Any) -> Change:
    """A post-processor that puts tokens around each text; `named`: of tokenizer_config.json."""

    def change(folder: Path) -> None:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizers_made.put_around(backend, before, after)
        backend.save(str(folder / "tokenizer.json"))
        edit(folder, "tokenizer_config.json", **named)

    return change


def settings(**values: Any) -> Change:
    """Keys of tokenizer_config.json."""
    return lambda folder: edit(folder, "tokenizer_config.json", **values)


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def templates(folder: Path) -> None:
    """Chat templates of several names."""
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    listed = [{"name": name, "template": text} for name in ("default", "tool_use")]
    edit(folder, "tokenizer_config.json", chat_template=listed)


def wide_head(folder: Path) -> None:
    """A trained head in float64 under a tied flag."""
    own_head(folder)
    weights(folder, lambda w: w | {"lm_head.weight": w["lm_head.weight"].double()})
