"""Checkpoints of compressed-tensors are read as the very values that their numbers make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import float32
from tests.quantized_made import (
    Tensors,
    int_quantized,
    pack_quantized,
    random_codes,
    read_as,
    scaled_floats,
)

SHAPE = (64, 256)


def settings(named: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    """quantization_config as llm-compressor writes it, of one group."""
    facts = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    facts |= {"group_size": 128, "block_structure": None, "dynamic": False, "actorder": None}
    facts |= {"observer": "minmax", "observer_kwargs": {}}
    group = {"targets": ["Linear"], "weights": facts | weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group | {"output_activations": None}},
        "format": named,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.19.0",
    }


def of(module: str, tensors: Tensors) -> Tensors:
    return {f"{module}.{part}": array for part, array in tensors.items()}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("group", [32, 128, -1])
@pytest.mark.parametrize("bits", range(2, 9))
def test_both_ways_of_packing_are_read(
    bits: int, group: int, dense: bool, symmetric: bool, tmp_path: Path
) -> None:
    made = random_codes(SHAPE, bits, group, symmetric)
    facts = {"strategy": "channel", "group_size": None} if group == -1 else {"group_size": group}
    found = read_as(
        tmp_path,
        settings(num_bits=bits, symmetric=symmetric, **facts),
        of("X", pack_quantized(made, bits, symmetric, dense)),
    )
    assert list(found.arrays) == ["X.weight"]
    array = found.arrays["X.weight"]
    size = 128 if group == -1 else group
    wide = min(width for width in (2, 4, 8) if width >= bits)
    assert array.dtype == f"INT{wide}_{size}{'_SYM' if symmetric else ''}_F16"
    assert np.array_equal(float32(array), made.values())


@pytest.mark.parametrize("symmetric", [True, False])
def test_act_order_is_read(symmetric: bool, tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 64, symmetric, shuffled=True)
    facts = settings(group_size=64, symmetric=symmetric, actorder="group")
    found = read_as(tmp_path, facts, of("X", pack_quantized(made, 4, symmetric, g_idx=True)))
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())
    assert any("act-order" in note for note in found.notes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("way", ["channel", "tensor", "group"])
def test_int8_is_read_and_its_rounded_activations_are_told(
    way: str, symmetric: bool, tmp_path: Path
) -> None:
    made = random_codes(SHAPE, 8, 64 if way == "group" else -1, symmetric)
    if way == "tensor":
        made.scales[:], made.zeros[:] = made.scales[0], made.zeros[0]
    arrays = int_quantized(made, symmetric)
    if way == "tensor":
        arrays |= {n: a[:1].reshape(1).clone() for n, a in arrays.items() if n != "weight"}
    facts = settings("int-quantized", num_bits=8, symmetric=symmetric, strategy=way, group_size=64)
    facts["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True}
    found = read_as(tmp_path, facts, of("X", arrays))
    assert found.arrays["X.weight"].dtype.startswith("INT8")
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())
    assert any("activations are rounded as well" in note for note in found.notes)


@pytest.mark.parametrize(
    ("way", "block"),
    [("tensor", (96, 320)), ("channel", (1, 320)), ("block", (64, 128)), ("group", (1, 64))],
)
def test_floats_of_8_bits_are_read(way: str, block: tuple[int, int], tmp_path: Path) -> None:
    weight, scale, values = scaled_floats((96, 320), block)
    facts = {"num_bits": 8, "type": "float", "strategy": way, "group_size": None}
    facts |= {"block_structure": block} if way == "block" else {}
    facts |= {"group_size": 64} if way == "group" else {}
    arrays = {"X.weight": weight, "X.weight_scale": scale.reshape(1) if way == "tensor" else scale}
    array = read_as(tmp_path, settings("float-quantized", **facts), arrays).arrays["X.weight"]
    assert np.array_equal(float32(array), values)


FLOATS_OF_4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


def fp4_settings(group: int, **changes: Any) -> dict[str, Any]:
    name = "nvfp4" if group == 16 else "mxfp4"
    facts = {"num_bits": 4, "type": "float", "group_size": group} | changes
    return settings(f"{name}-pack-quantized", strategy="tensor_group", **facts)


def floats_of_4(group: int) -> tuple[Tensors, np.ndarray]:
    """X in floats of 4 bits, and its values."""
    rng = np.random.default_rng(group)
    rows, cols = SHAPE
    codes = rng.integers(0, 16, SHAPE)
    pairs = [[int(row[at]) | int(row[at + 1]) << 4 for at in range(0, cols, 2)] for row in codes]
    arrays = {"X.weight_packed": torch.tensor(pairs, dtype=torch.uint8)}
    if group == 16:
        weight, total = scaled_floats((rows, cols // group), (1, 1))[0], np.float32(37.3)
        arrays |= {"X.weight_scale": weight, "X.weight_global_scale": torch.tensor([total])}
        scales = weight.float().numpy() / total
    else:
        exponents = rng.integers(100, 130, (rows, cols // group))
        arrays["X.weight_scale"] = torch.tensor(exponents, dtype=torch.uint8)
        scales = np.float32(2) ** (exponents - 127).astype(np.float32)
    values = [
        [np.float32(FLOATS_OF_4[codes[r, c]]) * scales[r, c // group] for c in range(cols)]
        for r in range(rows)
    ]
    return arrays, np.array(values, np.float32)


@pytest.mark.parametrize("group", [16, 32])
def test_floats_of_4_bits_are_read(group: int, tmp_path: Path) -> None:
    arrays, values = floats_of_4(group)
    arrays["X.input_global_scale"] = torch.ones(1)
    found = read_as(tmp_path, fp4_settings(group), arrays)
    assert list(found.arrays) == ["X.weight"]
    assert np.array_equal(float32(found.arrays["X.weight"]), values)


def test_each_module_is_read_by_the_group_that_is_nearest(tmp_path: Path) -> None:
    made = {"a.q": random_codes(SHAPE, 4, 128), "a.k": random_codes(SHAPE, 8, 32)}
    made["a.v"] = random_codes(SHAPE, 3, 64)
    facts = settings()
    groups = facts["config_groups"]
    first = groups["group_0"]["weights"]
    groups["group_1"] = {"targets": ["re:.*[kv]$"], "weights": first | {"num_bits": 8}}
    groups["group_1"]["weights"]["group_size"] = 32
    groups["group_2"] = {"targets": ["a.v"], "weights": first | {"num_bits": 3, "group_size": 64}}
    bits = {"a.q": 4, "a.k": 8, "a.v": 3}
    arrays: Tensors = {}
    for module, codes in made.items():
        arrays |= of(module, pack_quantized(codes, bits[module]))
    found = read_as(tmp_path, facts | {"format": "mixed-precision"}, arrays)
    for module, codes in made.items():
        assert np.array_equal(float32(found.arrays[f"{module}.weight"]), codes.values())
    assert "of 4 bits" in found.notes[0] and "of 3 bits" in found.notes[0]


def changed(**changes: Any) -> dict[str, Any]:
    return settings() | changes


def two_groups(target: str, bits: int) -> dict[str, Any]:
    found = settings()
    weights = found["config_groups"]["group_0"]["weights"] | {"num_bits": bits}
    found["config_groups"]["group_1"] = {"targets": [target], "weights": weights}
    return found


FOUR = of("X", pack_quantized(random_codes(SHAPE, 4, 128), 4))
EIGHT = of(
    "X", {"weight": scaled_floats((64, 256), (1, 256))[0], "weight_scale": torch.ones(64, 1)}
)
ODD = of("X", pack_quantized(random_codes((64, 40), 3, 40), 3))

REFUSED: dict[str, tuple[dict[str, Any], Tensors, type[EdgequantError], str]] = {
    "another format": (
        changed(format="mxfp8-quantized"),
        FOUR,
        UnsupportedError,
        r"of the format mxfp8-quantized \(X\) is not read, only pack-quantized",
    ),
    "sparse": (
        changed(sparsity_config={"format": "sparse-24-bitmask"}),
        FOUR,
        UnsupportedError,
        "of the sparse format sparse-24-bitmask is not read",
    ),
    "rotated": (
        changed(transform_config={"config_groups": {"u": {}}}),
        FOUR,
        UnsupportedError,
        "has transform_config = .*, and what that does to the weights is not known",
    ),
    "a group that is a name": (
        changed(config_groups={"W4A16": ["Linear"]}),
        FOUR,
        UnsupportedError,
        "config_groups has W4A16 without settings of its weights",
    ),
    "two groups for one module": (
        two_groups("Linear", 8),
        FOUR,
        UnsupportedError,
        "X is a target of several groups of config_groups that differ",
    ),
    "no group": (
        changed(config_groups={"a": {"targets": ["Y"], "weights": {"num_bits": 4}}}),
        FOUR,
        CorruptFileError,
        "X is quantized, but no group of config_groups has it as a target",
    ),
    "a group without weights": (
        changed(config_groups={"a": {"targets": ["X"]}}),
        FOUR,
        UnsupportedError,
        "config_groups says nothing of the weights of X",
    ),
    "no pattern": (two_groups("re:(", 8), FOUR, CorruptFileError, "which is no pattern"),
    "other bits": (
        settings(num_bits=8),
        FOUR,
        CorruptFileError,
        r"X.weight_packed has shape \(64, 32\), quantization_config implies \(64, 64\)",
    ),
    "other groups": (settings(group_size=64), FOUR, CorruptFileError, r"implies \(64, 4\)"),
    "packed int4 read as FP8": (
        settings("float-quantized", num_bits=8, type="float", strategy="channel"),
        FOUR,
        UnsupportedError,
        r"X.weight_packed of 8 bits \(float\) is not read",
    ),
    "FP8 read as int8": (
        settings("int-quantized", num_bits=8, strategy="channel"),
        EIGHT,
        UnsupportedError,
        "X.weight is F8_E4M3, not I8",
    ),
    "FP8 of 4 bits": (
        settings("float-quantized", num_bits=4, type="float", strategy="channel"),
        EIGHT,
        UnsupportedError,
        "X.weight of 4 bits that are not packed",
    ),
    "floats of 4 bits in other groups": (
        fp4_settings(64),
        floats_of_4(32)[0],
        UnsupportedError,
        "of floats of 4 bits in groups of 64 is not read, only of 16",
    ),
    "no global scale": (
        fp4_settings(16),
        {n: a for n, a in floats_of_4(16)[0].items() if "global" not in n},
        CorruptFileError,
        "X.weight_global_scale is missing",
    ),
    "packed int4 read as floats of 4 bits": (
        fp4_settings(32),
        FOUR,
        UnsupportedError,
        "X.weight_packed is I32, not U8",
    ),
    "no zero points": (
        settings(symmetric=False),
        FOUR,
        CorruptFileError,
        "X.weight_zero_point is missing",
    ),
    "no groups of columns": (
        settings(actorder="group"),
        FOUR,
        CorruptFileError,
        "X.weight_g_idx is missing",
    ),
    "a width of either packing": (
        settings(num_bits=3, strategy="channel", group_size=None),
        ODD,
        CorruptFileError,
        "has 4 words a row, as 40 codes of 3 bits take in either way",
    ),
    "integers by block": (
        settings(strategy="block"),
        FOUR,
        UnsupportedError,
        "X.weight_scale by block is not read for integers",
    ),
    "an unknown type": (settings(type="posit"), FOUR, CorruptFileError, "is not what it must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    facts, arrays, kind, message = REFUSED[case]
    with pytest.raises(EdgequantError, match=message) as caught:
        read_as(tmp_path, facts, arrays)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
