"""Gemma 3 inside its vision model, as transformers saves it: the language model alone is read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import CorruptFileError
from runtime.tokenizer import Tokenizer
from tests.conftest import config
from tests.tokenizers_made import made

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

OWN = ("model_type", "torch_dtype", "architectures", "eos_token_id")
"""Of config.json: not of a text_config."""
IDS = np.random.default_rng(0).integers(0, 4000, (1, 40))
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, np.ndarray]]:
    """A vision model of random weights, and its logits of a text."""
    folder = tmp_path_factory.mktemp("gemma") / "model"
    text = config("gemma3", pad_token_id=0)
    facts: Any = transformers.Gemma3Config(
        text_config={key: value for key, value in text.items() if key not in OWN},
        vision_config=TOWER,
        mm_tokens_per_image=4,
        image_token_index=4092,
        boi_token_index=4094,
        eoi_token_index=4095,
        eos_token_id=[4093, 4091],
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(facts).eval()
    for name, values in model.named_parameters():
        if "norm" in name:
            values.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((bundled() / name).read_bytes())
    with torch.inference_mode():
        yield folder, model(torch.from_numpy(IDS)).logits.numpy()


def test_the_language_model_is_that_of_transformers(saved: tuple[Path, np.ndarray]) -> None:
    folder, expected = saved
    checkpoint = open_checkpoint(folder)
    found = open_engine(checkpoint.model(), "torch").logits(IDS)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert checkpoint.arch.tied and checkpoint.arch.vocab == 4096
    assert {4093, 4091} <= set(checkpoint.tokenizer.eos)
    (told,) = [note for note in checkpoint.notes if "left aside" in note]
    assert "multi_modal_projector.mm_input_projection_weight" in told
    assert not [note for note in checkpoint.notes if "beside its text_config" in note]


def test_names_as_transformers_loads_them_are_read(
    saved: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, expected = saved
    arrays = load_file(folder / "model.safetensors")
    newer = {
        f"model.{k.replace('language_model.model', 'language_model')}": v for k, v in arrays.items()
    }
    save_file(newer, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = open_engine(open_checkpoint(tmp_path).model(), "torch").logits(IDS)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_tower_without_weights_is_refused(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = saved
    arrays = load_file(folder / "model.safetensors")
    language = {name: array for name, array in arrays.items() if name.startswith("language_model")}
    save_file(language, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CorruptFileError, match="a vision_config, but the weights hold no tensor"):
        open_checkpoint(tmp_path)


def test_gemma_s_tokenizer_is_that_of_transformers(tmp_path: Path) -> None:
    folder = made("gemma", tmp_path)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma3_text", "vocab_size": 800})
    )
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    for text in ("two  spaces\n\n\n", "<start_of_turn>user\nhi<end_of_turn>", "▁▁ ▁", "<div> é"):
        assert [*ours.prefix, *ours.encode(text)] == theirs(text).input_ids
