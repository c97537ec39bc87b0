"""Gemma 3's config.json: what it may leave out, the older and newer spellings, what is refused."""

from typing import Any

import numpy as np
import pytest

from runtime.archs import family_of
from runtime.archs.gemma3 import Gemma3Arch, with_window
from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from tests.conftest import config

BY_KIND = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
KINDS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
PLAIN = dict.fromkeys(("rope_scaling", "rope_theta", "rope_local_base_freq"))


def arch_of(**changes: Any) -> Gemma3Arch:
    facts = config("gemma3", **changes)
    facts = {key: value for key, value in facts.items() if value is not None}
    arch = family_of(facts).arch(facts)
    assert isinstance(arch, Gemma3Arch)
    return arch


def test_what_a_released_config_leaves_out_is_what_transformers_takes() -> None:
    pytest.importorskip("transformers")
    from transformers import Gemma3TextConfig

    theirs = Gemma3TextConfig()
    arch = family_of({"model_type": "gemma3_text"}).arch({"model_type": "gemma3_text"})
    assert isinstance(arch, Gemma3Arch)
    assert (arch.vocab, arch.hidden, arch.ffn) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.intermediate_size,
    )
    assert (arch.layers, arch.heads, arch.kv_heads) == (
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
    )
    assert (arch.head_dim, arch.eps, arch.context, arch.tied, arch.window, arch.query_scalar) == (
        theirs.head_dim,
        theirs.rms_norm_eps,
        theirs.max_position_embeddings,
        theirs.tie_word_embeddings,
        theirs.sliding_window,
        theirs.query_pre_attn_scalar,
    )
    bases = {kind: rope["rope_theta"] for kind, rope in theirs.rope_parameters.items()}
    assert bases == {"full_attention": arch.rope.theta, "sliding_attention": arch.local_rope.theta}
    sliding = [i for i, kind in enumerate(theirs.layer_types) if kind == "sliding_attention"]
    assert list(arch.windowed) == sliding


def test_the_newer_spelling_says_the_same() -> None:
    newer = arch_of(
        rope_parameters=BY_KIND, layer_types=KINDS, sliding_window_pattern=None, **PLAIN
    )
    assert newer == arch_of()
    assert newer.windowed == with_window(3, 4) == (0, 1, 3)


def test_layers_may_have_a_window_in_any_order() -> None:
    arch = arch_of(layer_types=KINDS[::-1])
    assert [arch.layer(i).attention.window for i in range(4)] == [8, None, 8, 8]
    bases = [rope.theta for i in range(4) if (rope := arch.layer(i).attention.rope)]
    assert bases == [1e4, 1e6, 1e4, 1e4]
    with pytest.raises(UnsupportedError, match="window in no order .*; write an ONNX folder"):
        family_of({"model_type": "gemma3_text"}).gguf_keys(arch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query_pre_attn_scalar": 24}, "query_pre_attn_scalar 24, and llama.cpp takes 32"),
        ({"attention_bias": True}, "llama.cpp reads no bias of attn_q in a gemma3"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn and default, and llama.cpp"),
    ],
)
def test_what_llamacpp_computes_otherwise_is_refused(changes: dict[str, Any], said: str) -> None:
    arch = arch_of(**changes)
    with pytest.raises(UnsupportedError, match=said):
        family_of({"model_type": "gemma3_text"}).gguf_keys(arch)


def test_the_largest_is_scaled_by_another_width_and_known_by_its_layers() -> None:
    family = family_of({"model_type": "gemma3_text"})
    largest = arch_of(num_hidden_layers=62, query_pre_attn_scalar=16)  # hidden size by heads
    found = family.gguf_arch(family.gguf_keys(largest), largest.shapes())
    assert found.layer(0).attention.scores_scale == 16**-0.5
    with pytest.raises(UnsupportedError, match="query_pre_attn_scalar 32, and llama.cpp takes 16"):
        family.gguf_keys(arch_of(num_hidden_layers=62))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "attention.sliding_window_pattern",
            np.array([True, False]),
            r"pattern is \[True, False\],",
        ),
        ("attention.sliding_window", np.array([8, 8]), r"sliding_window is \[8, 8\], but a whole"),
        (
            "final_logit_softcapping",
            np.array([1.0, 2.0]),
            r"is \[1.0, 2.0\], but a soft",
        ),
    ],
)
def test_arrays_in_a_gguf_where_numbers_are_read(key: str, value: np.ndarray, said: str) -> None:
    family, arch = family_of({"model_type": "gemma3_text"}), arch_of()
    keys = family.gguf_keys(arch) | {f"gemma3.{key}": value}
    with pytest.raises(EdgequantError, match=said):
        family.gguf_arch(keys, arch.shapes())


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"final_logit_softcapping": 30.0}, UnsupportedError, "sets final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, UnsupportedError, "sets attn_logit_softcapping"),
        ({"hidden_activation": "relu"}, UnsupportedError, "sets hidden_activation 'relu'"),
        ({"use_bidirectional_attention": True}, UnsupportedError, "sets use_bidirectional"),
        ({"layer_types": KINDS[:3]}, CorruptFileError, "for 3 layers and num_hidden_layers 4"),
        ({"layer_types": [*KINDS[:3], "linear"]}, UnsupportedError, "'linear' among its layer"),
        ({"rope_parameters": {"rope_theta": 1e5}}, UnsupportedError, "for each kind of layer"),
        (
            {"layer_types": KINDS[:2] * 2, "sliding_window": 0},
            CorruptFileError,
            "sliding_window is not what it must be",
        ),
        ({"sliding_window_pattern": "3"}, CorruptFileError, "sliding_window_pattern is not"),
    ],
)
def test_what_cannot_be_is_refused(
    changes: dict[str, Any], kind: type[EdgequantError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        arch_of(**changes)


def test_a_window_without_its_length_is_refused() -> None:
    facts = config("gemma3") | {"sliding_window": None}
    with pytest.raises(CorruptFileError, match="a sliding window, and its size is None"):
        family_of(facts).arch(facts)
