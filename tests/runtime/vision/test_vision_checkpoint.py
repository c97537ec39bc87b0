"""Checkpoints of models that read images: their language model under any of its names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.gguf import write
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.archs import FAMILIES, family_of
from runtime.archs.qwen2vl import VisionArch
from runtime.config_file import language_config
from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.gguf_file import open_gguf
from runtime.tensor import Tensor
from runtime.vision.ids import IDS, image_ids
from runtime.vision.tower import Tower, tower_of
from tests.one_file_models import SIZES, edit, own_head, weights
from tests.vision_models import (
    HEADS,
    MODELS,
    OLDER_TOWER,
    QWEN2,
    QWEN25,
    TOWER,
    nested,
    renamed,
    vision_model,
)


def whole_model(folder: Path) -> None:
    """As transformers 5 saves it."""
    renamed(folder, "model.language_model.", "model.visual.")
    nested(folder)


def without_head(folder: Path) -> None:
    """As it is saved without its head."""
    renamed(folder, "language_model.", "visual.", head=False)
    nested(folder)


def language_model(folder: Path) -> None:
    """As the language model is saved alone."""
    renamed(folder, "", "gone.", head=False)
    weights(folder, lambda v: {n: value for n, value in v.items() if not n.startswith("gone.")})
    kind = json.loads((folder / "config.json").read_text())["model_type"] + "_text"
    edit(folder, "config.json", model_type=kind, vision_config=...)


FORMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "whole": (whole_model, "the prefix model.language_model. was taken off"),
    "headless": (without_head, "the prefix language_model. was taken off"),
    "language": (language_model, "model. was put before every tensor's name"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_is_found_under_any_prefix(name: str, form: str, tmp_path: Path) -> None:
    config = MODELS[name] | {"tie_word_embeddings": True}
    plain = open_checkpoint(vision_model(tmp_path / "plain", config))
    change, note = FORMS[form]
    change(vision_model(tmp_path / "other", config))
    other = open_checkpoint(tmp_path / "other")
    assert other.arch == plain.arch
    assert any(note in told for told in other.notes)
    for tensor in plain.tensors:
        np.testing.assert_array_equal(
            plain.tensors[tensor].decode(), other.tensors[tensor].decode()
        )
    if form != "language":
        assert other.beside.keys() == plain.beside.keys()
    for checkpoint in (plain, other)[: 1 + (form != "language")]:
        assert any("other part, " in told for told in checkpoint.notes)


@pytest.mark.parametrize("inner", [False, True, None])
@pytest.mark.parametrize("outer", [False, True, None])
def test_a_head_is_tied_where_either_config_says_so(inner: bool | None, outer: bool | None) -> None:
    def flag(value: bool | None) -> dict[str, Any]:
        return {} if value is None else {"tie_word_embeddings": value}

    config = {"model_type": "qwen2_5_vl", **flag(outer), "text_config": flag(inner)}
    said = language_config(config).get("tie_word_embeddings")  # None: what its family usually is
    assert said == (None if inner is None and outer is None else bool(inner or outer))


def test_a_stored_head_of_its_own_wins(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25 | {"tie_word_embeddings": True})
    own_head(folder)
    whole_model(folder)
    found = open_checkpoint(folder)
    assert not found.arch.tied
    assert any("lm_head.weight is not the embedding" in note for note in found.notes)


def test_settings_beside_a_text_config_do_not_count_and_are_told(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    nested(folder)
    before = open_checkpoint(folder)
    edit(folder, "config.json", rms_norm_eps=1e-3, hidden_size=64)
    found = open_checkpoint(folder)
    assert found.arch == before.arch
    assert "config.json has rms_norm_eps beside its text_config, which counts" in found.notes[0]


@pytest.mark.parametrize("kind", ["mrope", "default"])
def test_both_names_of_the_rope_are_read_and_nothing_is_told_of_it(kind: str) -> None:
    scaling = {"type": kind, "rope_type": kind, "mrope_section": [2, 3, 3]}
    config = SIZES | HEADS | {"model_type": "qwen2_5_vl", "rope_scaling": scaling}
    family = family_of(config)
    arch = family.arch(config)
    assert isinstance(arch, VisionArch)
    assert (arch.sections, arch.rope.rope_type, arch.rope.theta) == ((2, 3, 3), "default", 1e6)
    assert not family.notes(config)


def test_without_sections_those_of_transformers_are_taken() -> None:
    config = SIZES | QWEN25 | {"rope_scaling": {"type": "mrope"}, "hidden_size": 512}
    arch = family_of(config).arch(config)
    assert isinstance(arch, VisionArch)
    assert arch.sections == (16, 24, 24)


@pytest.mark.parametrize("sections", [[2, 3], [2, 3, 4], [], "all", [2, 3, -3], [2.5, 3, 3]])
def test_sections_that_are_not_those_of_a_head_are_refused(sections: object) -> None:
    config = SIZES | QWEN25 | {"rope_scaling": {"type": "mrope", "mrope_section": sections}}
    with pytest.raises(CorruptFileError, match="mrope_section") as caught:
        family_of(config).arch(config)
    assert "\n" not in str(caught.value)


def test_a_vision_config_without_tower_weights_is_refused(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    weights(folder, lambda v: {n: value for n, value in v.items() if not n.startswith("visual.")})
    with pytest.raises(CorruptFileError, match="has a vision_config, but the weights hold no"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [None, "x", [], {}, float("nan"), -1, 1.5, True, 4608, 999999])
@pytest.mark.parametrize("key", IDS)
def test_a_token_of_images_is_one_of_the_vocabulary(key: str, value: object) -> None:
    config = SIZES | QWEN25 | {"vocab_size": 4608}
    family_of(config).arch(config | {key: 4607})
    with pytest.raises(CorruptFileError, match=f"{key} of config.json is .* from 0 to 4607"):
        family_of(config).arch(config | {key: value})
    language = config | {"model_type": "qwen2_5_vl_text", "vision_config": None}
    family_of(language).arch(language | {key: value})  # nobody asks for it


def test_tokens_beside_a_text_config_count(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    nested(folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, "config.json", text_config=text | dict.fromkeys(IDS))  # as transformers 4 saves
    config = open_checkpoint(folder).config
    assert image_ids(config, 4608) == (4096, 4098, 4097)


def written(path: Path, checkpoint: Checkpoint) -> Path:
    """The language model as GGUF in F32."""
    pairs = checkpoint.tensors.items()
    tensors = (Tensor.dense(n, t.decode().reshape(t.shape)) for n, t in pairs)
    write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_comes_back(tied: bool, tmp_path: Path) -> None:
    config = QWEN25 | {"tie_word_embeddings": tied}
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", config))
    found = open_gguf(written(tmp_path / "x.gguf", checkpoint))
    assert found.arch == checkpoint.arch
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].decode(), tensor.decode())


@pytest.mark.parametrize("sections", [None, [2, 3, 3], [2, 3, 3, 1], [2, 3, -1, 0], [1, 1, 1, 0]])
def test_sections_of_a_gguf_that_do_not_fit_are_refused(sections: list[int] | None) -> None:
    config, family = SIZES | HEADS | {"model_type": "qwen2_vl"}, FAMILIES["qwen2vl"]
    arch = family.arch(config)
    keys = family.gguf_keys(arch)
    assert keys["qwen2vl.rope.dimension_sections"] == [2, 3, 3, 0]
    keys["qwen2vl.rope.dimension_sections"] = sections
    keys = {key: value for key, value in keys.items() if value is not None}
    with pytest.raises(EdgequantError, match="section"):
        family.gguf_arch(keys, arch.shapes())


@pytest.mark.parametrize("sections", ["x", 5, [2.0, 3.0, 3.0, 0.0], ["2", "3", "3", "0"]])
def test_sections_of_a_gguf_of_another_kind_are_refused(sections: Any) -> None:
    config, family = SIZES | HEADS | {"model_type": "qwen2_vl"}, FAMILIES["qwen2vl"]
    arch = family.arch(config)
    keys = family.gguf_keys(arch) | {"qwen2vl.rope.dimension_sections": sections}
    with pytest.raises(CorruptFileError, match="sections is .*, but three numbers and a 0 are"):
        family.gguf_arch(keys, arch.shapes())


def test_the_sizes_of_both_towers() -> None:
    newer, older = tower_of(QWEN25), tower_of(QWEN2)
    assert newer == Tower(3, 32, 2, 44, 64, 14, 2, 2, 3, True, 112, (1,))
    assert older == Tower(2, 32, 2, 64, 64, 14, 2, 2, 3, False)
    assert tower_of(HEADS) is None
    # a release says what differs from transformers' defaults
    big = tower_of({"model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 1280}})
    assert big and (big.ffn, big.depth, big.full) == (3420, 32, (7, 15, 23, 31))
    assert len(big.shapes()) == 1 + 32 * 12 + 5


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (TOWER | {"hidden_act": "gelu"}, "hidden_act 'gelu', and only 'silu'"),
        (TOWER | {"num_heads": 5}, "5 heads in 32 channels"),
        (TOWER | {"in_channels": 1}, "in_channels 1"),
        (TOWER | {"window_size": 100}, "window_size 100"),
        (TOWER | {"depth": "deep"}, "depth is not what it must be"),
        (OLDER_TOWER | {"hidden_act": "silu"}, "only 'quick_gelu'"),
    ],
)
def test_towers_that_are_not_computed_are_refused(stored: dict[str, Any], sentence: str) -> None:
    config = (QWEN2 if "embed_dim" in stored else QWEN25) | {"vision_config": stored}
    with pytest.raises((CorruptFileError, UnsupportedError), match=sentence) as caught:
        tower_of(config)
    assert "\n" not in str(caught.value)
