"""Phi-3: fused arrays, longrope and rope on a part of each head, in config.json and in GGUF."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.gguf import write
from quantize.checkpoint import open_checkpoint
from quantize.plan import Rule, Target, assign
from runtime.archs import FAMILIES, Arch, family_of
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_file import open_gguf
from runtime.gguf_source import read_gguf
from runtime.model import Model
from runtime.tensor import Tensor
from tests.conftest import CONFIGS, config

IDS = np.random.default_rng(0).integers(0, 4096, (1, 40))


def sizes(**changes: object) -> Arch:
    settings = config("phi3", **changes)
    return family_of(settings).arch(settings)


def test_fused_arrays_are_cut_by_rows_in_the_order_of_the_checkpoint(
    random_models: dict[str, Path],
) -> None:
    tensors = open_checkpoint(random_models["phi3"]).tensors
    for array, parts in {
        "self_attn.qkv_proj": ("attn_q", "attn_k", "attn_v"),
        "mlp.gate_up_proj": ("ffn_gate", "ffn_up"),
    }.items():
        whole = tensors.arrays[f"model.layers.1.{array}.weight"].read()
        rows = [np.array(tensors[f"blk.1.{part}.weight"].data) for part in parts]
        assert np.array_equal(np.concatenate(rows).reshape(-1), whole)


def test_a_gguf_comes_back_as_a_model_and_as_a_source(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint, path = open_checkpoint(random_models["phi3"]), tmp_path / "x.gguf"
    found = [Tensor.dense(name, checkpoint.tensors[name].decode()) for name in checkpoint.tensors]
    write(path, checkpoint.arch, found, checkpoint.folder, {"preset": "F32"})
    expected = open_engine(Model(checkpoint.arch, {t.name: t for t in found}), "numpy").logits(IDS)
    for model in (open_gguf(path), read_gguf(path).model()):
        np.testing.assert_allclose(
            open_engine(model, "numpy").logits(IDS), expected, rtol=1e-5, atol=1e-6
        )


def test_a_gguf_with_all_queries_keys_and_values_in_one_is_read(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, path = open_checkpoint(random_models["phi3"]), tmp_path / "x.gguf"
    family = FAMILIES["phi3"]
    tensors = [Tensor.dense(n, checkpoint.tensors[n].decode()) for n in checkpoint.tensors]
    both = family.gguf_joined | family.gguf_may_join
    with monkeypatch.context() as patch:
        patch.setattr(type(family), "gguf_joined", both)  # as llama.cpp's converter writes
        write(path, checkpoint.arch, tensors, checkpoint.folder, {"preset": "F32"})
    model = open_gguf(path)
    for tensor in tensors:
        np.testing.assert_array_equal(model.tensors[tensor.name].decode(), tensor.decode())


def test_a_longer_context_of_a_gguf_is_told(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's converter writes the whole context, and llama.cpp chooses the table by it."""
    checkpoint, path = open_checkpoint(random_models["phi3"]), tmp_path / "x.gguf"
    family = FAMILIES["phi3"]
    keys = family.gguf_keys(checkpoint.arch) | {"phi3.context_length": 1024}
    tensors = [Tensor.dense(n, checkpoint.tensors[n].decode()) for n in checkpoint.tensors]
    with monkeypatch.context() as patch:
        patch.setattr(type(family), "gguf_keys", lambda self, arch: keys)
        write(path, checkpoint.arch, tensors, checkpoint.folder, {"preset": "F32"})
    source = read_gguf(path)
    assert source.arch.context == 256
    assert any("a context of 1,024 tokens; it ends at 256" in note for note in source.notes)


def test_longrope_ends_the_context_and_says_so() -> None:
    settings = config("phi3")
    arch = family_of(settings).arch(settings)
    assert (arch.context, arch.rope_channels) == (256, 16)
    assert arch.rope.magnitude == pytest.approx((1 + np.log(4) / np.log(256)) ** 0.5)
    (note,) = family_of(settings).notes(settings)
    assert "instead of after 1,024" in note
    plain = config("phi3", rope_scaling=None)
    assert family_of(plain).arch(plain).context == 1024
    assert not family_of(plain).notes(plain)


def test_a_window_ends_the_context_of_a_gguf() -> None:
    arch = sizes(sliding_window=100)
    assert FAMILIES["phi3"].gguf_keys(arch)["phi3.context_length"] == 100


def test_tables_of_another_length_and_other_scalings_are_refused() -> None:
    rope = dict(CONFIGS["phi3"]["rope_scaling"])
    with pytest.raises(CorruptFileError, match="2 numbers in longrope's long_factor, and 8 pairs"):
        sizes(rope_scaling=rope | {"long_factor": [1.0, 2.0]})
    with pytest.raises(UnsupportedError, match="rope scaling 'linear'"):
        sizes(rope_scaling={"type": "linear", "factor": 2.0})
    with pytest.raises(CorruptFileError, match="original_max_position_embeddings 1, and longrope"):
        sizes(original_max_position_embeddings=1)
    with pytest.raises(CorruptFileError, match="so that 33 of 32 channels"):
        sizes(rope_scaling=None, partial_rotary_factor=1.05)


def test_a_rule_for_half_of_a_joined_tensor_is_refused() -> None:
    rules = (Rule("ffn_gate", "Q8_0"),)
    with pytest.raises(
        UnsupportedError, match="ffn_gate.weight is Q8_0 and .*stored as one.*such as --rule"
    ):
        assign(Target("gguf", "Q4_0"), sizes(), rules)
    assign(Target("gguf", "Q4_0"), sizes(), (Rule("ffn_gate|ffn_up", "Q8_0"),))
    assign(Target("onnx", "int4"), sizes(), ())


def test_a_rule_for_half_of_a_joined_linear_is_refused_or_holds_for_all() -> None:
    arch = sizes(hidden_size=128, num_attention_heads=4)
    rules = (Rule("attn_q", "INT4_32_F16"),)
    with pytest.raises(UnsupportedError, match="attn_q.weight is INT4_32_F16 and .*stored as one"):
        assign(Target("gptq", "int4"), arch, rules)
    assign(Target("gptq", "int4"), arch, ())
    # AWQ says one group for all linears
    types = assign(Target("awq", "int4"), arch, rules).types
    assert {types[f"blk.0.{name}.weight"].name for name in ("attn_k", "ffn_up")} == {"INT4_32_F16"}


def test_a_config_that_is_written_says_the_same_sizes() -> None:
    for changes in ({}, {"rope_scaling": None}, {"sliding_window": 64}):
        arch = sizes(**changes)
        again = FAMILIES["phi3"].arch(FAMILIES["phi3"].config(arch))
        assert replace(again, context=arch.context) == arch
