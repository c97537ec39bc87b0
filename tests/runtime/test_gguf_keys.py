"""Sizes and rope settings as GGUF metadata, both ways, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.archs import FAMILIES, Arch, family_of
from runtime.errors import EdgequantError
from runtime.rope import Rope
from tests.conftest import CONFIGS, LLAMA3, config


def arch_of(name: str, **changes: Any) -> Arch:
    settings = config(name, **changes)
    return family_of(settings).arch(settings)


def back(arch: Arch, **changes: Any) -> Arch:
    """The sizes read from the metadata of an arch, after some changes; None takes a key out."""
    family = FAMILIES[arch.family]
    tables = [tuple(map(float, table)) for table in family.gguf_rope(arch)]
    metadata = family.gguf_keys(arch) | {f"{arch.family}.{k}": v for k, v in changes.items()}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    return family.gguf_arch(metadata, arch.shapes(), *tables)


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_come_back(name: str) -> None:
    arch = arch_of(name)
    found = back(arch)
    ropes = {key: value for key, value in vars(arch).items() if isinstance(value, Rope)}
    assert replace(found, **ropes) == arch
    for key, rope in ropes.items():
        read = getattr(found, key).tables(0, 300, arch.rope_channels)
        for mine, its in zip(read, rope.tables(0, 300, arch.rope_channels), strict=True):
            np.testing.assert_allclose(mine, its, atol=2e-5)


@pytest.mark.parametrize(
    "rope",
    [
        Rope(theta=5e5, original_context=256),
        Rope(rope_type="linear", factor=3.0, original_context=256),
        Rope(theta=1e6, rope_type="yarn", factor=4.0, original_context=64),
        Rope(rope_type="yarn", factor=8.0, original_context=64, attention_factor=1.5),
    ],
)
def test_rope_settings_come_back(rope: Rope) -> None:
    found = Rope.from_gguf(rope.gguf_keys(), 256)
    assert replace(found, attention_factor=None) == replace(rope, attention_factor=None)
    assert found.magnitude == pytest.approx(rope.magnitude, rel=1e-12)


def test_the_ends_of_yarn_s_ramp_are_not_read_as_llamacpp_does_not() -> None:
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}
    ramp = {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}
    assert Rope.from_gguf(keys | ramp, 64) == Rope.from_gguf(keys, 64)


def test_yarn_without_a_context_of_its_own_takes_the_model_s() -> None:
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}
    assert Rope.from_gguf(keys, 4096).original_context == 4096


def test_keys_that_old_files_lack_have_their_usual_values() -> None:
    arch = arch_of("llama-untied", num_key_value_heads=6)
    lacking = ("attention.key_length", "attention.value_length", "attention.head_count_kv")
    found = back(arch, **dict.fromkeys((*lacking, "rope.dimension_count", "rope.freq_base")))
    assert (found.head_dim, found.kv_heads, found.rope.theta) == (16, 6, 10000.0)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"block_count": None}, "llama.block_count is None, but a whole number above 0"),
    ({"block_count": 2**31 - 1}, "llama.block_count is 2147483647, but the file has 35 tensors"),
    ({"attention.head_count": 0}, "llama.attention.head_count is 0, but a whole number"),
    ({"attention.head_count": "6"}, "llama.attention.head_count is '6', but a whole number"),
    ({"attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon is nan, but a number"),
    ({"attention.layer_norm_rms_epsilon": None}, "rms_epsilon is None, but a number"),
    ({"attention.causal": False}, "sets llama.attention.causal to false, so that tokens see those"),
    ({"attention.causal": "no"}, "llama.attention.causal is 'no', but true or false is needed"),
    ({"block_count": np.array([2, 3])}, r"llama.block_count is \[2, 3\], but a whole number"),
    ({"block_count": ["x"] * 9999}, r"llama.block_count is \[('x', ){64}\.\.\.\], but a whole"),
    ({"attention.value_length": 8}, "llama.attention.value_length is 8, but only 16"),
    ({"rope.dimension_count": 8}, "llama.rope.dimension_count is 8, but only 16"),
    ({"rope.freq_base": 0.0}, "rope theta is 0.0, but a number above 0"),
    ({"rope.scaling.type": "longrope"}, "scaling 'longrope'; supported: none, linear, yarn"),
    (
        {"rope.scaling.type": "linear", "rope.scaling.factor": float("inf")},
        "rope factor is inf, but a number above 0",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_missing_and_impossible_keys_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EdgequantError, match=sentence):
        back(arch_of("llama-untied"), **changes)


def test_divisors_of_a_wrong_number_or_sign_are_refused() -> None:
    family, arch = FAMILIES["llama"], arch_of("llama-tied")
    metadata, shapes = family.gguf_keys(arch), arch.shapes()
    with pytest.raises(EdgequantError, match="number of rope factors is 6, but only 16"):
        family.gguf_arch(metadata, shapes, (1.0,) * 3)
    with pytest.raises(EdgequantError, match="rope divisor 7 is -1.0, but a number above 0"):
        family.gguf_arch(metadata, shapes, (1.0,) * 7 + (-1.0,))
    yarn = metadata | {"llama.rope.scaling.type": "yarn"}
    with pytest.raises(EdgequantError, match="'yarn' with divisors"):
        family.gguf_arch(yarn, shapes, (1.0,) * 8)


def test_a_scaling_that_the_family_s_readers_ignore_is_not_written() -> None:
    arch = arch_of("qwen2-tied", rope_scaling=LLAMA3)
    with pytest.raises(EdgequantError, match="GGUF has no rope scaling 'llama3' for qwen2"):
        FAMILIES["qwen2"].gguf_keys(arch)


def test_a_yarn_ramp_that_llamacpp_ignores_is_not_written() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0}
    with pytest.raises(EdgequantError, match=r"beta_slow to \(16.0, 1.0\), and llama.cpp takes"):
        FAMILIES["qwen2"].gguf_keys(arch_of("qwen2-tied", rope_scaling=scaling))


@pytest.mark.parametrize("part", ["attn_q", "attn_k"])
def test_llama_s_query_and_key_rows_interleave_the_two_halves_of_a_head(part: str) -> None:
    arch = arch_of("llama-untied")
    rows = FAMILIES["llama"].gguf_rows(arch, f"blk.0.{part}.weight")
    assert rows is not None
    assert rows[:16].tolist() == [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    assert rows[16] == 16
    assert sorted(rows.tolist()) == list(range(16 * (6 if part == "attn_q" else 2)))
