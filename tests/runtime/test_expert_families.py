"""Families with experts: their sizes from config.json and from GGUF, and their arrays."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from export.gguf import write
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.archs import FAMILIES, family_of
from runtime.archs.experts import MoEArch
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, EdgequantError
from runtime.gguf_file import open_gguf
from runtime.tensor import Tensor
from tests.moe_models import MODELS, QWEN2, QWEN3, moe
from tests.one_file_models import SIZES, weights

LENGTHS = ("expert_feed_forward_length", "expert_shared_feed_forward_length")


def arch_of(config: dict[str, Any]) -> MoEArch:
    found = family_of(config).arch(SIZES | config)
    assert isinstance(found, MoEArch)
    return found


@pytest.mark.parametrize(
    ("name", "experts", "top_k", "shared", "normalized", "dense"),
    [
        ("qwen2", 6, 2, 64, False, ()),
        ("qwen2 one of many", 17, 1, 64, False, ()),
        ("qwen2 dense layers", 6, 2, 64, False, (0, 2)),
        ("qwen3", 6, 2, 0, True, ()),
        ("qwen3 unsaid", 6, 2, 0, False, ()),
        ("qwen3 every second", 6, 2, 0, True, (0, 2)),
    ],
)
def test_sizes_of_experts_are_those_of_config_json(
    name: str, experts: int, top_k: int, shared: int, normalized: bool, dense: tuple[int, ...]
) -> None:
    arch = arch_of(MODELS[name][0])
    assert (arch.experts, arch.top_k, arch.shared_ffn) == (experts, top_k, shared)
    assert (arch.normalized, arch.dense, arch.expert_ffn) == (normalized, dense, 32)
    for index in range(arch.layers):
        assert ("ffn_gate" in arch.layer(index).linears) == (index in dense)
        assert ("ffn_gate_exps" in arch.layer(index).linears) == (index not in dense)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_experts", 0),
        ("num_experts", "60"),
        ("num_experts", None),
        ("num_experts_per_tok", -1),
        ("num_experts_per_tok", 7),
        ("moe_intermediate_size", 1.5),
        ("shared_expert_intermediate_size", []),
        ("shared_expert_intermediate_size", None),
        ("decoder_sparse_step", 0),
        ("mlp_only_layers", 3),
        ("mlp_only_layers", ["0"]),
        ("norm_topk_prob", "yes"),
        ("qkv_bias", 2),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(key: str, value: object) -> None:
    with pytest.raises(CorruptFileError, match=key) as caught:
        arch_of(QWEN2 | {key: value})
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("key", ["num_experts", "moe_intermediate_size"])
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(CorruptFileError, match=key):
        arch_of({name: value for name, value in QWEN3.items() if name != key})


def test_the_number_of_experts_is_where_transformers_takes_it_from() -> None:
    both = {"num_experts": 6, "num_local_experts": 4}
    assert arch_of(QWEN2 | both).experts == 6
    assert arch_of(QWEN3 | both).experts == 4
    assert arch_of(QWEN3 | {"num_experts": None, "num_local_experts": 4}).experts == 4


def test_experts_in_one_array_are_those_of_many(tmp_path: Path) -> None:
    apart, whole = (open_checkpoint(moe(tmp_path / n, QWEN2, fuse=n == "f")) for n in "af")
    for name in apart.tensors:
        np.testing.assert_array_equal(apart.tensors[name].decode(), whole.tensors[name].decode())


def test_one_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder, name = moe(tmp_path / "x", QWEN3, fuse=True), "model.layers.1.mlp.experts.gate_up_proj"
    weights(folder, lambda values: values.update({name: values[name][:, :-1].contiguous()}))
    with pytest.raises(EdgequantError, match=r"gate_up_proj has shape \(6, 63, 64\)"):
        open_checkpoint(folder)


def test_a_dense_model_with_fields_of_experts_is_read(tmp_path: Path) -> None:
    folder = moe(tmp_path / "x", {"num_experts": 0, "norm_topk_prob": False})
    assert open_checkpoint(folder).arch.family == "qwen2"


def written(path: Path, checkpoint: Checkpoint) -> None:
    """The model as GGUF in F32."""
    pairs = checkpoint.tensors.items()
    tensors = (Tensor.dense(n, t.decode().reshape(t.shape)) for n, t in pairs)
    write(path, checkpoint.arch, tensors, checkpoint.folder, {})


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_a_gguf_comes_back(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(moe(tmp_path / "x", config))
    written(tmp_path / "x.gguf", checkpoint)
    found = open_gguf(tmp_path / "x.gguf")
    assert found.arch == checkpoint.arch
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].decode(), tensor.decode())
    table = {t.name: tuple(t.shape) for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert table["blk.0.ffn_down_exps.weight"] == (32, 64, 6)
    if "shared_expert_intermediate_size" in config:
        assert table["blk.0.ffn_gate_inp_shexp.weight"] == (64,)


def foreign(path: Path, source: Path, skip: tuple[str, ...]) -> Path:
    """A GGUF file written again by the gguf package, without some keys."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key.endswith(skip):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_without_the_lengths_of_experts_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(moe(tmp_path / "x", QWEN2))
    written(tmp_path / "x.gguf", checkpoint)
    path = foreign(tmp_path / "y.gguf", tmp_path / "x.gguf", LENGTHS)
    assert not any(key.endswith(LENGTHS) for key in gguf.GGUFReader(path).fields)
    found, ids = open_gguf(path), np.arange(24).reshape(2, 12)
    assert found.arch == checkpoint.arch
    expected = open_engine(checkpoint.model(), "numpy").logits(ids)
    np.testing.assert_allclose(open_engine(found, "numpy").logits(ids), expected, atol=1e-5)


def test_more_experts_a_token_than_there_are_is_refused_in_gguf() -> None:
    arch = arch_of(QWEN3)
    keys = FAMILIES["qwen3moe"].gguf_keys(arch) | {"qwen3moe.expert_used_count": 7}
    with pytest.raises(CorruptFileError, match="expert_used_count is 7, but there are 6 experts"):
        FAMILIES["qwen3moe"].gguf_arch(keys, arch.shapes())


@pytest.mark.parametrize("name", [name for name, (_, sentence) in MODELS.items() if sentence])
def test_what_llama_cpp_does_not_compute_is_refused(name: str) -> None:
    config, sentence = MODELS[name]
    arch = arch_of(config)
    with pytest.raises(EdgequantError, match=sentence):
        FAMILIES[arch.family].gguf_keys(arch)


def test_router_and_gate_stay_precise() -> None:
    linears = arch_of(QWEN2).layer(0).linears
    precise = {name for name, linear in linears.items() if linear.precise}
    assert precise == {"ffn_gate_inp", "ffn_gate_inp_shexp"}
