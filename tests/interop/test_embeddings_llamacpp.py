"""Embedding models: what llama.cpp makes of a text by the file alone, against transformers."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from tests.conftest import CONFIGS
from tests.interop.llama_servers import serving
from tests.one_file_models import make
from tests.pooled import add_pooling
from tests.small_models import rounded

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("xllamacpp")

TEXT = "The history of the city."


def embedding(path: Path) -> np.ndarray:
    """What llama.cpp makes of TEXT with the file's own pooling; it normalizes."""
    settings = {"embedding": True, "n_parallel": 1, "n_ctx": 128, "warmup": False}
    with serving(model__path=str(path), **settings) as address:
        request = urllib.request.Request(
            f"{address}/v1/embeddings",
            json.dumps({"input": TEXT}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as found:
            answer = json.load(found)
    return np.array(answer["data"][0]["embedding"], np.float64).ravel()


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen3"])
@pytest.mark.parametrize("mode", ["mean_tokens", "lasttoken"])
def test_llamacpp_embeds_a_text_as_the_checkpoint_does(
    family: str, mode: str, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2}
    folder = make(tmp_path / "model", 3, **(CONFIGS[family] | sizes))
    add_pooling(folder, mode)
    checkpoint, path = open_checkpoint(folder), tmp_path / "model.gguf"
    tensors = rounded(checkpoint, "F32")
    CONTAINERS["gguf"].write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    found = embedding(path)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        ids = torch.tensor([checkpoint.tokenizer.encode(TEXT)])
        states = model(ids).last_hidden_state[0].numpy().astype(np.float64)  # (T, D)
    pooled = {"mean_tokens": states.mean(0), "lasttoken": states[-1]}
    near = {name: cosine(found, values) for name, values in pooled.items()}
    assert near.pop(mode) > 0.9999
    assert max(near.values()) < 0.99


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
