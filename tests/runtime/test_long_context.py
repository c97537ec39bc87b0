"""Configurations for a million tokens: the context ends where plain attention is right."""

from typing import Any

import pytest

from export import CONTAINERS
from runtime.archs import family_of
from runtime.rope import Rope
from tests.conftest import config

MILLION: dict[str, Any] = {
    "max_position_embeddings": 1_010_000,
    "rope_theta": 1e7,
    "rms_norm_eps": 1e-5,
    "dual_chunk_attention_config": {
        "chunk_size": 262_144,
        "local_size": 8192,
        "original_max_position_embeddings": 262_144,
    },
}
SPARSE = {"sparse_attention_config": {"a": {"0": 1}}}


def test_the_context_ends_with_the_first_chunk() -> None:
    facts = config("qwen2-untied", **MILLION)
    family = family_of(facts)
    arch = family.arch(facts)
    assert (arch.context, arch.rope, arch.eps) == (262_144, Rope(theta=1e7, **CONTEXT), 1e-5)
    (note,) = family.notes(facts)
    assert "dual_chunk_attention_config, which neither transformers" in note
    assert "the same for 262,144 tokens, where the context ends instead of after 1,010,000" in note
    assert CONTAINERS["gguf"].context(arch) == 262_144
    assert family.gguf_keys(arch)["qwen2.context_length"] == 262_144
    assert CONTAINERS["onnx"].context(arch) == 131_072


CONTEXT = {"original_context": 1_010_000}


@pytest.mark.parametrize("context", [256, 262_144])
def test_a_context_inside_the_first_chunk_stays(context: int) -> None:
    facts = config("qwen3", **MILLION | {"max_position_embeddings": context})
    family = family_of(facts)
    assert family.arch(facts).context == context
    assert family.notes(facts)[0].endswith(f"for {context:,} tokens, where the context ends")


def test_sparse_attention_is_told() -> None:
    facts = config("qwen2-untied", **MILLION, **SPARSE)
    assert "sparse_attention_config, by which some" in family_of(facts).notes(facts)[1]
    facts = config("qwen2-untied", dual_chunk_attention_config=None, sparse_attention_config={})
    assert family_of(facts).notes(facts) == ()
