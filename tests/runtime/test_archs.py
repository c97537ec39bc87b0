"""Facts of each family: sizes from a config and back, names, shapes, GGUF's row order."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from runtime.archs import FAMILIES, family_of
from runtime.config_file import language_config
from runtime.errors import EdgequantError, UnsupportedError
from tests.conftest import CONFIGS, SIZES, config

LAYER_OF_LLAMA = {
    "attn_norm.weight": (96,),
    "attn_q.weight": (96, 96),
    "attn_k.weight": (32, 96),
    "attn_v.weight": (32, 96),
    "attn_output.weight": (96, 96),
    "ffn_norm.weight": (96,),
    "ffn_gate.weight": (160, 96),
    "ffn_up.weight": (160, 96),
    "ffn_down.weight": (96, 160),
}


LINEARS = [
    name.removesuffix(".weight") for name, shape in LAYER_OF_LLAMA.items() if len(shape) == 2
]


def test_shapes_of_a_layer_in_file_order() -> None:
    family = FAMILIES["llama"]
    arch = family.arch(config("llama-tied"))
    assert arch.layer(1).shapes == LAYER_OF_LLAMA
    assert list(arch.layer(1).shapes) == list(LAYER_OF_LLAMA)


def test_biases_stand_where_the_family_has_them() -> None:
    def biases(name: str) -> list[str]:
        shapes = family_of(config(name)).arch(config(name)).layer(0).shapes
        return [key.removesuffix(".bias") for key in shapes if key.endswith(".bias")]

    assert biases("qwen2-tied") == ["attn_q", "attn_k", "attn_v"]
    assert biases("llama-tied") == []
    assert set(biases("llama-untied")) == set(LINEARS)


def test_the_head_is_the_embedding_when_they_are_tied() -> None:
    family = FAMILIES["qwen2"]
    tied, untied = family.arch(config("qwen2-tied")), family.arch(config("qwen2-untied"))
    assert tied.head == "token_embd.weight"
    assert "output.weight" not in tied.shapes()
    assert untied.head == "output.weight"
    assert untied.shapes()["output.weight"] == (4096, 96)


def test_names_are_those_of_a_hugging_face_checkpoint() -> None:
    settings = config("qwen2-untied", num_hidden_layers=12)
    names = family_of(settings).arch(settings).hf_names()
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.11.attn_q.bias": "model.layers.11.self_attn.q_proj.bias",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
        "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    assert {name: names[name] for name in pairs} == pairs
    assert len(set(names.values())) == len(names) == 3 + 12 * 12


@pytest.mark.parametrize("name", CONFIGS)
def test_input_groups_cover_every_linear_once_and_follow_what_they_fold_into(name: str) -> None:
    arch = family_of(config(name)).arch(config(name))
    for index in range(arch.layers):
        layer = arch.layer(index)
        linears = [linear for group in layer.groups for linear in group.linears]
        assert sorted(linears) == sorted(layer.linears)
        assert len({group.name for group in layer.groups}) == len(layer.groups)
        for group in layer.groups:
            widths = {layer.shapes[f"{linear}.weight"][-1] for linear in group.linears}
            assert widths == {group.width}
            assert f"{group.fold}.weight" in layer.shapes


def test_gguf_pairs_neighbouring_channels_of_llama_queries_and_keys() -> None:
    family = FAMILIES["llama"]
    arch = dataclasses.replace(family.arch(config("llama-tied")), heads=2, kv_heads=1, head_dim=6)
    assert family.gguf_rows(arch, "blk.0.attn_k.weight").tolist() == [0, 3, 1, 4, 2, 5]
    rows = family.gguf_rows(arch, "blk.0.attn_q.weight")
    assert rows.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert family.gguf_rows(arch, "blk.0.attn_v.weight") is None
    qwen = FAMILIES["qwen2"]
    assert qwen.gguf_rows(qwen.arch(config("qwen2-tied")), "blk.0.attn_q.weight") is None


def test_rotating_neighbours_of_reordered_rows_is_rotating_halves() -> None:
    family = FAMILIES["llama"]
    arch = dataclasses.replace(family.arch(config("llama-tied")), heads=1, kv_heads=1, head_dim=8)
    x = np.random.default_rng(0).normal(size=8)
    angles = np.linspace(0.1, 1, 4)
    first, second = x[:4], x[4:]
    halves = np.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        ]
    )
    order = family.gguf_rows(arch, "blk.0.attn_q.weight")
    even, odd = x[order][0::2], x[order][1::2]
    neighbours = np.stack(
        [
            even * np.cos(angles) - odd * np.sin(angles),
            odd * np.cos(angles) + even * np.sin(angles),
        ],
        axis=-1,
    ).reshape(-1)
    np.testing.assert_allclose(neighbours, halves[order])


def test_missing_optional_keys_have_the_meaning_of_the_reference() -> None:
    facts = config("llama-tied")
    del facts["num_key_value_heads"]
    arch = family_of(facts).arch(facts)
    assert (arch.kv_heads, arch.head_dim) == (6, 16)
    assert family_of(facts).arch(facts | {"head_dim": 32}).head_dim == 32


REFUSED = {
    "hidden_act": ("gelu", "hidden_act 'gelu'; only 'silu' is supported"),
    "model_type": ("mamba", "unknown architecture 'mamba' in config.json; supported: .*qwen2"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_an_unsupported_setting_is_refused(key: str) -> None:
    value, message = REFUSED[key]
    facts = config("qwen2-tied") | {key: value}
    with pytest.raises(EdgequantError, match=message):
        family_of(facts).arch(facts)


@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_size", "rms_norm_eps"])
def test_a_missing_key_is_named(key: str) -> None:
    facts = config("qwen2-tied")
    del facts[key]
    with pytest.raises(EdgequantError, match=f"no '{key}'; take the config.json that came with"):
        family_of(facts).arch(facts)


def test_heads_of_qwen3_are_128_channels_wide_unless_the_config_says() -> None:
    facts = config("qwen3")
    assert family_of(facts).arch(facts).head_dim == 32
    del facts["head_dim"]
    assert family_of(facts).arch(facts).head_dim == 128


def test_biases_of_qwen3_are_those_of_the_config() -> None:
    facts = config("qwen3", attention_bias=True)
    biases = [name for name in family_of(facts).arch(facts).layer(0).shapes if name[-4:] == "bias"]
    assert biases == [f"attn_{part}.bias" for part in ("q", "k", "v", "output")]


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_gguf_holds_no_bias_that_llamacpp_does_not_read(name: str) -> None:
    facts = config(name, attention_bias=True)
    family = family_of(facts)
    with pytest.raises(EdgequantError, match=f"no bias of attn_output in a {name}; write an ONNX"):
        family.gguf_keys(family.arch(facts))


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({}, (3,)),
        ({"no_rope_layer_interval": 2}, (1, 3)),
        ({"no_rope_layers": [0, 1, 1, 0]}, (0, 3)),
        ({"no_rope_layers": [1, 1, 1, 1], "no_rope_layer_interval": 2}, ()),
    ],
)
def test_layers_of_smollm3_without_rope_are_those_of_the_config(changes, without) -> None:
    facts = config("smollm3", **changes)
    arch = family_of(facts).arch(facts)
    ropes = [arch.layer(index).attention.rope for index in range(4)]
    assert tuple(index for index, rope in enumerate(ropes) if rope is None) == without


def test_a_list_of_ropes_for_other_layers_is_refused() -> None:
    facts = config("smollm3", no_rope_layers=[1, 0])
    with pytest.raises(EdgequantError, match="no_rope_layers for 2 layers and num_hidden_layers 4"):
        family_of(facts).arch(facts)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        *(("no_rope_layer_interval", v) for v in (0, -1, None, "x", [], {}, 1.5, math.nan)),
        *(("no_rope_layers", v) for v in (4, 1.5, True, "1110", [1, 1, 1, 2], [1, 1, 1, "x"])),
    ],
)
def test_layers_without_rope_that_nobody_can_read_are_refused(key: str, said: Any) -> None:
    facts = config("smollm3", **{key: said})
    with pytest.raises(EdgequantError, match=rf"^config.json: {key}.* is not what it must be"):
        family_of(facts).arch(facts)


@pytest.mark.parametrize(("told", "named"), [([0, 1, 1, 0], "0, 3"), ([1, 1, 1, 1], "none")])
def test_gguf_holds_no_other_layers_without_rope_than_llamacpp_s(told, named: str) -> None:
    facts = config("smollm3", no_rope_layers=told)
    family = family_of(facts)
    with pytest.raises(EdgequantError, match=f"layers without rope are {named}, .* ONNX folder"):
        family.gguf_keys(family.arch(facts))


def test_smollm3_is_tied_unless_the_config_says() -> None:
    facts = config("smollm3", tie_word_embeddings=False)
    assert not family_of(facts).arch(facts).tied
    del facts["tie_word_embeddings"]
    assert family_of(facts).arch(facts).tied


NEAREST: dict[str, tuple[dict[str, Any], str]] = {
    "another name": ({}, "llama, whose settings it has, so that its layers must differ"),
    "multipliers": (
        {"mlp_bias": False, "logits_scaling": 8.0, "a": 1, "b": None},
        "llama, which has no a, logits_scaling",
    ),
    "experts": (
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "groups": 4},
        "qwen2_moe, which has no groups",
    ),
    "two ropes": ({"query_pre_attn_scalar": 24, "rope_local_base_freq": 1e4}, "gemma3_text, whose"),
    "another norm": ({"layer_norm_eps": 1e-5}, "llama, which has no layer_norm_eps"),
    "many": (dict.fromkeys("abcdefgh", 1), "llama, which has no a, b, c, d, e, f and 2 more"),
}


@pytest.mark.parametrize("case", NEAREST)
def test_an_unknown_architecture_is_told_the_nearest(case: str) -> None:
    changes, said = NEAREST[case]
    facts = SIZES | {"model_type": "mine", "use_sliding_window": False} | changes
    message = rf"^unknown architecture 'mine'.*; the nearest is {said}"
    with pytest.raises(UnsupportedError, match=message):
        family_of(facts)


def test_the_nearest_of_a_known_text_config_is_what_it_names() -> None:
    inner = SIZES | {"model_type": "qwen2", "a": 1}
    said = r"'mine' in .*; the nearest is qwen2 \(model_type of its text_config\), which has no a"
    with pytest.raises(UnsupportedError, match=said):
        family_of(language_config({"model_type": "mine", "text_config": inner}))


def test_what_an_unknown_architecture_lacks_is_told() -> None:
    message = "has no d_model and which needs hidden_size, .* 1 more"
    with pytest.raises(UnsupportedError, match=message):
        family_of({"model_type": "mine", "d_model": 4})
