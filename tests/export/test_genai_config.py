"""genai_config.json: what onnxruntime-genai is told about a model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export import genai
from quantize.checkpoint import Checkpoint, bundled
from runtime.archs import Arch
from runtime.errors import EdgequantError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint's small files."""
    shutil.copytree(bundled(), tmp_path / "source", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "source"


def config_of(arch: Arch, source: Path) -> dict[str, Any]:
    """genai_config.json as it is written."""
    config: dict[str, Any] = json.loads(genai.small_files(arch, source)["genai_config.json"])
    return config


def generation(source: Path, **settings: Any) -> None:
    (source / "generation_config.json").write_text(json.dumps(settings))


def test_every_end_token_is_listed_in_order(tiny: Checkpoint, source: Path) -> None:
    generation(source, eos_token_id=[4095, 4094])
    model = config_of(tiny.arch, source)["model"]
    assert model["eos_token_id"] == [4095, 4094, 4093]


def test_a_lone_end_token_is_a_number_that_also_pads(tiny: Checkpoint, source: Path) -> None:
    generation(source, eos_token_id=4093)
    model = config_of(tiny.arch, source)["model"]
    assert (model["eos_token_id"], model["pad_token_id"]) == (4093, 4093)


def test_sampling_follows_the_source_and_null_means_the_default(tiny, source: Path) -> None:
    generation(source, do_sample=True, temperature=0.7, top_k=None, repetition_penalty=1.05)
    search = config_of(tiny.arch, source)["search"]
    assert search["do_sample"] is True
    assert (search["temperature"], search["repetition_penalty"]) == (0.7, 1.05)
    assert (search["top_k"], search["top_p"]) == (50, 1.0)


def test_a_long_context_takes_no_cache_unless_asked(tiny: Checkpoint, source: Path) -> None:
    long = dataclasses.replace(tiny.arch, context=131_072)
    config = config_of(long, source)
    assert config["search"]["max_length"] == genai.MAX_LENGTH < config["model"]["context_length"]
    short = config_of(tiny.arch, source)
    assert short["search"]["max_length"] == short["model"]["context_length"] == tiny.arch.context


def test_sizes_are_the_models(tiny: Checkpoint, source: Path) -> None:
    model = config_of(tiny.arch, source)["model"]
    decoder = model["decoder"]
    assert (model["type"], model["vocab_size"]) == ("qwen2", 4096)
    assert (decoder["head_size"], decoder["num_key_value_heads"]) == (64, 2)
    assert (decoder["num_hidden_layers"], decoder["hidden_size"]) == (6, 256)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_source_without_its_files_is_refused(tiny: Checkpoint, source: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(EdgequantError, match=f"source has no {name};"):
        config_of(tiny.arch, source)


def test_files_of_the_source_are_copied_and_weights_are_not(tiny: Checkpoint, source: Path) -> None:
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "LICENSE").write_text("free")
    (source / "model.safetensors").write_bytes(b"weights")
    copied = genai.small_files(tiny.arch, source)
    del copied["genai_config.json"]
    assert {"chat_template.jinja", "LICENSE", "tokenizer.json"} < copied.keys()
    assert all(copied[name] == (source / name).read_bytes() for name in copied)
    assert "model.safetensors" not in copied
