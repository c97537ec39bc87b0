"""Which layers of a config.json have a sliding window; tests/interop/test_windows.py runs them."""

from typing import Any

import pytest

from runtime.archs import family_of
from runtime.errors import EdgequantError
from tests.windowed import FULL, SLIDING, WINDOWED, facts_of


def windowed(facts: dict[str, Any]) -> tuple[int | None, tuple[int, ...]]:
    arch = family_of(facts).arch(facts)
    layers = [arch.layer(index).attention.window for index in range(arch.layers)]
    assert layers == [arch.window if i in arch.windowed else None for i in range(arch.layers)]
    return arch.window, arch.windowed


@pytest.mark.parametrize("name", WINDOWED)
def test_layers_with_a_window(name: str) -> None:
    assert windowed(facts_of(name)) == (8, WINDOWED[name][1])


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("qwen2", {"use_sliding_window": False}, (None, ())),
        ("qwen2", {"sliding_window": None}, (None, ())),
        ("qwen2", {"max_window_layers": 4}, (None, ())),
        ("qwen2", {"max_window_layers": None, "use_sliding_window": False}, (None, ())),
        ("qwen2_moe", {"use_sliding_window": False, "sliding_window": 0}, (None, ())),
        ("mistral", {"sliding_window": None}, (None, ())),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 0]}, (8, (0, 3))),
        ("smollm3", {"use_sliding_window": False}, (None, ())),
    ],
)
def test_layers_without_one(name: str, changes: dict[str, Any], expected: Any) -> None:
    assert windowed(facts_of(name, **changes)) == expected


def test_what_transformers_takes_where_a_key_is_missing() -> None:
    facts = facts_of("mistral")
    del facts["sliding_window"], facts["num_key_value_heads"]
    arch = family_of(facts | {"num_attention_heads": 8}).arch(facts | {"num_attention_heads": 8})
    assert (arch.window, arch.kv_heads) == (4096, 8)
    facts = facts_of("qwen2", num_hidden_layers=30)
    del facts["sliding_window"], facts["max_window_layers"]
    assert windowed(facts) == (4096, (28, 29))


REFUSED = [
    ("qwen2", {"layer_types": [SLIDING, FULL]}, "layer_types for 2 layers and num_hidden_layers 4"),
    ("qwen2", {"layer_types": ["x"] * 4}, "has 'x' among its layer_types; supported: full_att"),
    ("qwen2", {"max_window_layers": None}, "max_window_layers to null, so that nothing tells"),
    ("qwen2_moe", {"max_window_layers": None}, "max_window_layers to null, so that nothing tells"),
    ("qwen2", {"sliding_window": 0}, "gives 3 layers a sliding window, and its size is 0; take"),
    (
        "qwen2",
        {"use_sliding_window": False, "layer_types": [SLIDING] * 4},
        "gives 4 layers a sliding window, and its size is None; take",
    ),
    ("qwen3_moe", {"layer_types": [SLIDING, FULL] * 2}, "layer_types that differ from use_slid"),
    (
        "mistral",
        {"model_type": "llama", "use_sliding_window": True},
        "no window in a llama; set it to false",
    ),
    (
        "mistral",
        {"model_type": "llama", "layer_types": [SLIDING] * 4},
        "gives 4 layers a sliding window",
    ),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED)
def test_windows_that_nobody_computes_are_refused(
    name: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(EdgequantError, match=sentence) as caught:
        windowed(facts_of(name, **changes))
    assert "\n" not in str(caught.value)
