"""Rotary embedding: angles by the book, scalings by hand, configs in both spellings."""

import math
from typing import Any

import numpy as np
import pytest

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.rope import Rope
from tests.conftest import LLAMA3, YARN

YARN_ROPE = Rope(theta=1e6, rope_type="yarn", factor=4.0, original_context=32768)
LLAMA_ROPE = Rope(theta=5e5, rope_type="llama3", factor=8.0, original_context=8192)


def test_tables_are_the_sines_of_position_times_frequency() -> None:
    cos, sin = Rope(theta=100.0).tables(3, 6, 4)
    for row, position in enumerate((3, 4, 5)):
        for pair, frequency in enumerate((1.0, 0.1)):
            assert cos[row, pair] == pytest.approx(math.cos(position * frequency))
            assert sin[row, pair] == pytest.approx(math.sin(position * frequency))
    assert cos.dtype == sin.dtype == np.float32


def test_tables_of_a_later_start_are_the_rows_of_the_whole() -> None:
    for rope in (Rope(), YARN_ROPE, LLAMA_ROPE):
        whole, part = rope.tables(0, 50, 64), rope.tables(20, 50, 64)
        for side in (0, 1):
            assert np.array_equal(whole[side][20:], part[side])


def test_linear_scaling_slows_every_channel() -> None:
    plain, scaled = Rope(), Rope(rope_type="linear", factor=4.0)
    np.testing.assert_allclose(scaled.frequencies(64) * 4, plain.frequencies(64))
    np.testing.assert_allclose(scaled.divisors(64), 4)


def test_llama3_keeps_fast_channels_and_slows_the_slow_ones() -> None:
    divisors = LLAMA_ROPE.divisors(128)
    wavelengths = 2 * np.pi / Rope(theta=5e5).frequencies(128)
    assert np.all(divisors[wavelengths < 8192 / 4] == 1)
    np.testing.assert_allclose(divisors[wavelengths > 8192], 8)
    between = divisors[(wavelengths > 8192 / 4) & (wavelengths < 8192)]
    assert len(between) > 0
    assert np.all(np.diff(between) > 0)
    assert between.min() > 1
    assert between.max() < 8


def test_yarn_keeps_fast_channels_slows_slow_ones_and_sharpens_attention() -> None:
    divisors = YARN_ROPE.divisors(128)
    assert divisors[0] == 1
    np.testing.assert_allclose(divisors[-1], 4)
    assert np.all(np.diff(divisors) >= 0)
    assert YARN_ROPE.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    cos, sin = YARN_ROPE.tables(0, 8, 128)
    np.testing.assert_allclose(np.hypot(cos, sin), YARN_ROPE.magnitude, rtol=1e-6)


def test_a_given_attention_factor_wins() -> None:
    assert Rope(rope_type="yarn", factor=4.0, attention_factor=1.0).magnitude == 1
    assert Rope(rope_type="linear", factor=4.0).magnitude == 1
    assert Rope(rope_type="yarn", factor=1.0).magnitude == 1


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, {"rope_type": "linear", "factor": 2.0}])
def test_old_and_new_spelling_of_a_config_mean_the_same(scaling: dict[str, Any]) -> None:
    old = {"rope_theta": 5e5, "rope_scaling": scaling, "max_position_embeddings": 256}
    new = {"rope_parameters": scaling | {"rope_theta": 5e5}, "max_position_embeddings": 256}
    oldest = {**old, "rope_scaling": scaling | {"type": scaling["rope_type"]}}
    oldest["rope_scaling"].pop("rope_type")
    found = [Rope.from_config(config) for config in (old, new, oldest)]
    assert found[0] == found[1] == found[2]
    assert found[0].theta == 5e5
    assert found[0].rope_type == scaling["rope_type"]


def test_defaults_of_a_config_without_rope_keys() -> None:
    assert Rope.from_config({}) == Rope()
    assert Rope.from_config({"rope_scaling": None, "max_position_embeddings": 99}) == Rope(
        original_context=99
    )


def test_an_unknown_scaling_is_refused_with_the_known_ones() -> None:
    config = {"rope_scaling": {"rope_type": "longrope", "factor": 2}}
    with pytest.raises(EdgequantError, match="'longrope'; supported: default, linear, llama3"):
        Rope.from_config(config)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("number", [{}, {"factor": None}])
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_a_scaling_without_its_factor_is_refused(
    kind: str, number: dict[str, Any], place: str
) -> None:
    others = {"rope_theta": 1e4, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {place: {"rope_type": kind} | others | number}
    with pytest.raises(CorruptFileError, match=f"rope scaling '{kind}' without factor; write"):
        Rope.from_config(config)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_ropes_by_type_of_layer_are_refused(place: str) -> None:
    one = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(UnsupportedError, match=r"types of layers \(full_attention, sliding"):
        Rope.from_config({place: {"full_attention": one, "sliding_attention": one}})
