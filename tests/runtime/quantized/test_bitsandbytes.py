"""Checkpoints of bitsandbytes are read as the values that their tables and scales make."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import float32
from runtime.quantized.decoded import DecodedArray
from tests.quantized_made import Tensors, read_as

SETTINGS: dict[str, Any] = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "quant_method": "bitsandbytes",
}
"""quantization_config as transformers writes it."""


def bytes_of(facts: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)


def four_bits(
    shape: tuple[int, int], nested: bool, kind: str = "nf4"
) -> tuple[Tensors, np.ndarray]:
    """The arrays of X.weight in blocks of 64, and its values."""
    rng = np.random.default_rng(0)
    count = shape[0] * shape[1]
    codes, table = rng.integers(0, 16, count), rng.uniform(-1, 1, 16).astype(np.float32)
    facts: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16"}
    facts |= {"shape": shape}
    blocks = -(-count // 64)
    scales = rng.uniform(0.01, 0.1, blocks).astype(np.float32)
    arrays = {"absmax": torch.from_numpy(scales), "quant_map": torch.from_numpy(table)}
    if nested:
        bytes8, outer = rng.integers(0, 256, blocks), rng.uniform(0.01, 0.1, -(-blocks // 256))
        curve = rng.uniform(-1, 1, 256).astype(np.float32)
        outer = outer.astype(np.float32)
        facts |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625}
        for block in range(blocks):
            scales[block] = curve[bytes8[block]] * outer[block // 256] + np.float32(0.0625)
        arrays["absmax"] = torch.from_numpy(bytes8.astype(np.uint8))
        arrays["nested_absmax"] = torch.from_numpy(outer)
        arrays["nested_quant_map"] = torch.from_numpy(curve)
    values = np.array([table[codes[at]] * scales[at // 64] for at in range(count)], np.float32)
    even = np.append(codes, 0)[: count + count % 2]
    packed = [[int(even[at]) << 4 | int(even[at + 1])] for at in range(0, len(even), 2)]
    found = {f"X.weight.{name}": array for name, array in arrays.items()}
    found[f"X.weight.quant_state.bitsandbytes__{kind}"] = bytes_of(facts)
    found["X.weight"] = torch.tensor(packed, dtype=torch.uint8)
    return found, values.reshape(shape)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(48, 64), (33, 47), (256, 80)])
def test_blocks_run_across_the_ends_of_rows(
    shape: tuple[int, int], kind: str, nested: bool, tmp_path: Path
) -> None:
    arrays, values = four_bits(shape, nested, kind)
    found = read_as(tmp_path, SETTINGS, arrays)
    array = found.arrays["X.weight"]
    assert list(found.arrays) == ["X.weight"]
    assert np.array_equal(float32(array), values)
    assert isinstance(array, DecodedArray)
    assert np.array_equal(float32(replace(array, chunk=5 * shape[1])), values)
    assert "rounded a second time" in found.notes[1]


def test_codes_may_be_stored_under_any_type(tmp_path: Path) -> None:
    arrays, values = four_bits((48, 64), nested=True)
    arrays["X.weight"] = arrays["X.weight"].reshape(-1).view(torch.bfloat16)[:, None]
    found = read_as(tmp_path, SETTINGS, arrays)
    assert np.array_equal(float32(found.arrays["X.weight"]), values)


def test_blocks_may_be_longer_than_the_weight(tmp_path: Path) -> None:
    arrays, values = four_bits((48, 64), nested=True)
    facts = {"shape": [48, 64], "blocksize": 64, "nested_offset": 0.0625}
    arrays[STATE] = bytes_of(facts | {"nested_blocksize": 2**31 - 1})
    array = read_as(tmp_path, SETTINGS, arrays).arrays["X.weight"]
    assert np.array_equal(float32(array), values)


def test_int8_stays_packed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, most = rng.integers(-127, 128, (64, 256)), rng.uniform(0.1, 1, 64).astype(np.float32)
    arrays = {"X.weight": torch.tensor(codes, dtype=torch.int8), "X.SCB": torch.from_numpy(most)}
    arrays["X.weight_format"] = torch.tensor(0, dtype=torch.uint8)
    found = read_as(tmp_path, SETTINGS, arrays)
    array = found.arrays["X.weight"]
    assert array.dtype == "INT8_128_SYM" and len(found.notes) == 1
    scales = most / np.float32(127)
    expected = [[np.float32(code) * scales[row] for code in codes[row]] for row in range(64)]
    assert np.array_equal(float32(array), np.array(expected, np.float32))


GOOD = four_bits((48, 64), nested=True)[0]
STATE = "X.weight.quant_state.bitsandbytes__nf4"
FACTS = {"shape": [48, 64], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.1}
REFUSED: dict[str, tuple[Tensors, type[EdgequantError], str]] = {
    "no scales": (
        {name: array for name, array in GOOD.items() if not name.endswith(".absmax")},
        CorruptFileError,
        "X.weight.absmax is missing",
    ),
    "no codes": (
        {name: array for name, array in GOOD.items() if name != "X.weight"},
        CorruptFileError,
        "X.weight is missing",
    ),
    "no state": (
        {name: array for name, array in GOOD.items() if name != STATE},
        UnsupportedError,
        "does not belong to what quantization_config names, bitsandbytes",
    ),
    "another shape": (
        GOOD | {STATE: bytes_of(FACTS | {"shape": [48, 65]})},
        CorruptFileError,
        "X.weight has 1,536 bytes, but 1,560 hold codes of the shape",
    ),
    "other blocks": (
        GOOD | {STATE: bytes_of(FACTS | {"blocksize": 128})},
        CorruptFileError,
        r"X.weight.absmax has shape \(48,\), quantization_config implies \(24,\)",
    ),
    "a state that is no JSON": (
        GOOD | {STATE: torch.ones(3, dtype=torch.uint8)},
        CorruptFileError,
        "bitsandbytes__nf4 is not what it must be",
    ),
    "a state without blocks": (
        GOOD | {STATE: bytes_of({"shape": [48, 64]})},
        CorruptFileError,
        "bitsandbytes__nf4 is not what it must be",
    ),
    "codes of 8 bytes": (
        GOOD | {"X.weight": torch.ones(192, dtype=torch.int64)},
        UnsupportedError,
        "X.weight is I64, not U8 or F16 or BF16 or F32",
    ),
    "a state of another type": (
        GOOD | {STATE: torch.ones(3)},
        UnsupportedError,
        "bitsandbytes__nf4 is F32, not U8",
    ),
    "int8 in another order": (
        {
            "X.weight": torch.ones(8, 8, dtype=torch.int8),
            "X.SCB": torch.ones(8),
            "X.weight_format": torch.tensor(1, dtype=torch.uint8),
        },
        UnsupportedError,
        "X.weight_format is not 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    arrays, kind, message = REFUSED[case]
    with pytest.raises(EdgequantError, match=message) as caught:
        read_as(tmp_path, SETTINGS, arrays)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
