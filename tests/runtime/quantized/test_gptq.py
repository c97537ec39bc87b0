"""GPTQ checkpoints are read as the very values that their codes, zero points and scales make."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import float32
from runtime.quantized.integers import IntegerArray
from tests.quantized_made import Codes, Tensors, gptq, random_codes, read_as, stream

SHAPE = (64, 256)
BITS = (2, 3, 4, 8)


def settings(bits: int = 4, group: int = 128, **changes: Any) -> dict[str, Any]:
    """quantization_config as auto-gptq writes it."""
    facts = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False}
    return facts | {"desc_act": False, "damp_percent": 0.01, "true_sequential": True} | changes


def stored(made: Codes, bits: int = 4, **changes: Any) -> Tensors:
    """The arrays of a module X."""
    return {f"X.{part}": array for part, array in gptq(made, bits, **changes).items()}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("bits", BITS)
def test_every_code_zero_point_and_scale_is_read(
    bits: int, group: int, symmetric: bool, shuffled: bool, version: int, tmp_path: Path
) -> None:
    made = random_codes(SHAPE, bits, group, symmetric, shuffled=shuffled)
    facts = settings(bits, group, sym=symmetric, desc_act=shuffled)
    if version == 2:
        facts["checkpoint_format"] = "gptq_v2"
    found = read_as(tmp_path, facts, stored(made, bits, version=version))
    array = found.arrays["X.weight"]
    assert list(found.arrays) == ["X.weight"]
    assert np.array_equal(float32(array), made.values())
    scattered = shuffled and group != -1
    size, wide = (128 if group == -1 else group), 4 if bits == 3 else bits
    packed = f"INT{wide}_{size}{'_SYM' if symmetric else ''}_F16"
    assert array.dtype == packed + "_ACT" * scattered
    assert array.nbytes == len(array.read())
    assert any("act-order" in note for note in found.notes) == scattered


@pytest.mark.parametrize(
    ("cols", "group", "name"),
    [
        (192, 128, "INT4_64_F16"),  # the last group of a row is cut short
        (192, -1, "INT4_64_F16"),
        (224, -1, "INT4_32_F16"),
        (224, 128, "INT4_32_F16"),
        (256, 1024, "INT4_128_F16"),
        (288, 96, "INT4_32_F16"),
        (256, 16, "F32"),
        (200, -1, "F32"),
    ],
)
def test_rows_get_the_longest_block_that_holds_them(
    cols: int, group: int, name: str, tmp_path: Path
) -> None:
    made = random_codes((32, cols), 4, group, symmetric=False)
    array = read_as(tmp_path, settings(4, group), stored(made)).arrays["X.weight"]
    assert array.dtype == name
    assert np.array_equal(float32(array), made.values())


def test_scattered_groups_of_uneven_sizes_are_float32(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 64, shuffled=True)
    groups = list(made.groups)
    groups[groups.index(0)] = 1  # 63 columns and 65
    made = made._replace(groups=groups)
    found = read_as(tmp_path, settings(4, 64, desc_act=True), stored(made))
    assert found.arrays["X.weight"].dtype == "F32"
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())
    assert any("1 of them, of uneven groups, are read as float32" in note for note in found.notes)


def test_groups_are_one_after_the_other_without_g_idx(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 64)
    array = read_as(tmp_path, settings(4, 64), stored(made, g_idx=False)).arrays["X.weight"]
    assert np.array_equal(float32(array), made.values())


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_a_weight_is_unpacked_some_rows_at_a_time(
    bits: int, shuffled: bool, tmp_path: Path
) -> None:
    made = random_codes((96, 64), bits, 32, symmetric=False, shuffled=shuffled)
    facts = settings(bits, 32, desc_act=shuffled)
    array = read_as(tmp_path, facts, stored(made, bits)).arrays["X.weight"]
    assert isinstance(array, IntegerArray)
    assert np.array_equal(float32(replace(array, chunk=64 * 32)), made.values())
    row = array.nbytes // 96
    assert np.array_equal(array.read_rows(33, 70), array.read().reshape(96, row)[33:70])


def whole_words(made: Codes) -> Tensors:
    """As GPTQModel stores zero points: the words less a 1 in every place, and what that borrows."""
    found = stored(made, version=2)
    words = found["X.qzeros"].numpy().view(np.uint32) - np.uint32(0x11111111)
    return found | {"X.qzeros": torch.from_numpy(words.view(np.int32))}


def test_zero_points_of_0_are_read_as_who_wrote_them_stores_them(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 64, symmetric=False)
    made.zeros[::3] = 0
    ours = {"meta": {"quantizer": ["gptqmodel:7.7.0"]}}
    found = read_as(tmp_path / "one", settings(4, 64, **ours), whole_words(made))
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())
    found = read_as(tmp_path / "other", settings(4, 64), stored(made))
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())


def test_dynamic_changes_modules_or_leaves_them_in_floats(tmp_path: Path) -> None:
    wide, narrow = random_codes(SHAPE, 8, 32), random_codes(SHAPE, 4, 128, seed=1)
    arrays = {f"a.down.{k}": v for k, v in gptq(wide, 8).items()}
    arrays |= {f"a.up.{k}": v for k, v in gptq(narrow, 4).items()}
    arrays["a.gate.weight"] = torch.ones(4, 4)
    dynamic = {r"+:.*\.down$": {"bits": 8, "group_size": 32}, r"-:.*\.gate$": {}, ".*": {}}
    found = read_as(tmp_path, settings(sym=True, dynamic=dynamic), arrays)
    assert np.array_equal(float32(found.arrays["a.down.weight"]), wide.values())
    assert np.array_equal(float32(found.arrays["a.up.weight"]), narrow.values())
    assert found.arrays["a.gate.weight"].dtype == "F32"
    assert "other modules otherwise" in found.notes[0]


def test_scales_of_the_kv_cache_are_left_aside_aloud(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 128)
    arrays = stored(made) | {"X.k_scale": torch.ones(1), "X.v_scale": torch.ones(1)}
    found = read_as(tmp_path, settings(), arrays)
    assert list(found.arrays) == ["X.weight"]
    assert "2 scales of activations or of the KV cache, X." in found.notes[-1]


def without(part: str) -> Callable[[Tensors], None]:
    def change(arrays: Tensors) -> None:
        del arrays[f"X.{part}"]

    return change


def put(part: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda arrays: arrays.update({f"X.{part}": tensor})


def nothing(arrays: Tensors) -> None:
    """As it is."""


REFUSED = {
    "v2 read as v1": (
        {"sym": True, "checkpoint_format": "gptq"},
        put("qzeros", torch.tensor([stream([8] * 64, 4)] * 2, dtype=torch.int32)),
        CorruptFileError,
        "says sym and gptq, but zero points of X are 9 to 9, not 8; .* may be gptq_v2",
    ),
    "no g_idx of columns out of order": (
        {"desc_act": True},
        without("g_idx"),
        CorruptFileError,
        "X.g_idx is missing, without which X cannot be read",
    ),
    "no scales": ({}, without("scales"), CorruptFileError, "X.scales is missing"),
    "groups that are not there": (
        {"desc_act": True},
        put("g_idx", torch.full((256,), 2, dtype=torch.int32)),
        CorruptFileError,
        "X.g_idx names group 2 of 2",
    ),
    "other bits": (
        {"bits": 8},
        nothing,
        CorruptFileError,
        r"X.scales has shape \(2, 64\), quantization_config implies \(1, 64\)",
    ),
    "other groups": ({"group_size": 64}, nothing, CorruptFileError, r"implies \(4, 64\)"),
    "another type": (
        {},
        put("scales", torch.ones(2, 64, dtype=torch.int8)),
        UnsupportedError,
        "X.scales is I8, not F16 or BF16 or F32",
    ),
    "planar": (
        {"bits": 5, "checkpoint_format": "gptq_p"},
        nothing,
        UnsupportedError,
        "the GPTQ format 'gptq_p' is not read, only gptq and gptq_v2",
    ),
    "two formats": (
        {"checkpoint_format": "gptq_v2", "format": "gptq"},
        nothing,
        UnsupportedError,
        "says checkpoint_format gptq_v2 and format gptq, which store zero points otherwise",
    ),
    "5 bits": ({"bits": 5}, nothing, UnsupportedError, "GPTQ of 5 bits in groups of 128 is not"),
    "dynamic of 5 bits": (
        {"dynamic": {"X": {"bits": 5}}},
        nothing,
        UnsupportedError,
        "GPTQ of 5 bits in groups of None is not read",
    ),
    "dynamic that is no pattern": (
        {"dynamic": {"+:(": {}}},
        nothing,
        CorruptFileError,
        r"dynamic has '\+:\(', which is no pattern",
    ),
    "words of 16 bits": ({"pack_dtype": "int16"}, nothing, UnsupportedError, "packed in int16"),
    "an unknown setting": (
        {"rotation": "hadamard"},
        nothing,
        UnsupportedError,
        "has rotation = 'hadamard', and what that does to the weights is not known",
    ),
    "bits in words": ({"bits": "four"}, nothing, CorruptFileError, "bits is not what it must be"),
    "no matrix": (
        {},
        put("qweight", torch.ones(64, dtype=torch.int32)),
        CorruptFileError,
        r"X.qweight has shape \(64,\) and is no matrix",
    ),
    "twice": ({}, put("weight", torch.ones(64, 256)), CorruptFileError, "in floats and quantized"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    changes, change, kind, message = REFUSED[case]
    arrays = stored(random_codes(SHAPE, 4, 128))
    change(arrays)
    with pytest.raises(EdgequantError, match=message) as caught:
        read_as(tmp_path, settings(**changes), arrays)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
