"""FP8 checkpoints are read as the products of their numbers and scales, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import float32
from runtime.quantized.decoded import BYTES, DecodedArray
from tests.quantized_made import Tensors, gptq, random_codes, read_as, scaled_floats

QWEN = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "modules_to_not_convert": ["lm_head"],
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
"""quantization_config of Qwen3's FP8 releases."""


@pytest.mark.parametrize("name", BYTES)
def test_every_byte_has_the_value_that_torch_gives_it(name: str) -> None:
    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[name]
    expected = torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    assert np.array_equal(BYTES[name], expected, equal_nan=True)
    assert np.array_equal(np.signbit(BYTES[name]), np.signbit(expected))


@pytest.mark.parametrize("shape", [(256, 128), (200, 320), (192, 256), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_blocks_are_cut_short(
    shape: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    weight, scale, _ = scaled_floats(shape, (128, 128))
    scale = scale.to(dtype)
    arrays = {"X.weight": weight, "X.weight_scale_inv": scale}
    array = read_as(tmp_path, QWEN, arrays).arrays["X.weight"]
    each, scales = weight.float().numpy(), scale.float().numpy()
    rows, cols = shape
    expected = [[each[r, c] * scales[r // 128, c // 128] for c in range(cols)] for r in range(rows)]
    assert np.array_equal(float32(array), np.array(expected, np.float32))
    assert array.nbytes == 4 * shape[0] * shape[1]


@pytest.mark.parametrize("scales", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("form", [(), (1,), (1, 1), (96,), (96, 1)])
def test_scales_of_rows_or_of_the_whole_weight_are_read(
    form: tuple[int, ...], scales: str, tmp_path: Path
) -> None:
    block = (1, 64) if 96 in form else (96, 64)
    weight, scale, values = scaled_floats((96, 64), block)
    arrays = {"X.weight": weight, f"X.{scales}": scale.reshape(form)}
    found = read_as(tmp_path, {"quant_method": "fp8", "activation_scheme": "static"}, arrays)
    array = found.arrays["X.weight"]
    assert np.array_equal(float32(array), values)
    assert isinstance(array, DecodedArray)
    assert np.array_equal(float32(replace(array, chunk=64 * 7)), values)


def test_blocks_may_be_longer_than_the_weight(tmp_path: Path) -> None:
    weight, scale, values = scaled_floats((96, 64), (96, 64))
    arrays = {"X.weight": weight, "X.weight_scale_inv": scale}
    settings = QWEN | {"weight_block_size": [2**31 - 1, 2**31 - 1]}
    array = read_as(tmp_path, settings, arrays).arrays["X.weight"]
    assert np.array_equal(float32(array), values)


def test_scales_of_activations_and_of_the_cache_are_left_aside_aloud(tmp_path: Path) -> None:
    weight, scale, values = scaled_floats((128, 128), (128, 128))
    one = torch.ones(1)
    arrays = {"a.k_proj.weight": weight, "a.k_proj.weight_scale_inv": scale}
    arrays |= {"a.k_proj.input_scale": one, "a.k_proj.k_scale": one.clone()}
    found = read_as(tmp_path, QWEN, arrays)
    assert np.array_equal(float32(found.arrays["a.k_proj.weight"]), values)
    assert list(found.arrays) == ["a.k_proj.weight"]
    assert found.notes[1].startswith("2 scales of activations or of the KV cache, a.k_proj.")


def floats8() -> Tensors:
    weight, scale, _ = scaled_floats((200, 320), (128, 128))
    return {"X.weight": weight, "X.weight_scale_inv": scale}


def packed() -> Tensors:
    return {f"X.{part}": array for part, array in gptq(random_codes((64, 64), 4, 32), 4).items()}


REFUSED: dict[str, tuple[dict[str, Any], Tensors, type[EdgequantError], str]] = {
    "scales of whole blocks alone": (
        {},
        floats8() | {"X.weight_scale_inv": torch.ones(1, 2)},
        CorruptFileError,
        r"X.weight_scale_inv has shape \(1, 2\), quantization_config implies \(2, 3\)",
    ),
    "blocks, and none in the settings": (
        {"weight_block_size": None},
        floats8(),
        CorruptFileError,
        r"X.weight_scale_inv has shape \(2, 3\), quantization_config implies \(200, 1\)",
    ),
    "packed int4": (
        {},
        packed(),
        UnsupportedError,
        "X.g_idx does not belong to what quantization_config names, fp8",
    ),
    "packed int4 under the weight's name": (
        {},
        floats8() | {"X.weight": torch.ones(200, 40, dtype=torch.int32)},
        UnsupportedError,
        "X.weight is I32, not F8_E4M3 or F8_E5M2",
    ),
    "scales of powers of 2": (
        {"scale_fmt": "ue8m0"},
        floats8(),
        UnsupportedError,
        "FP8 with scale_fmt 'ue8m0' is not read",
    ),
    "experts of 4 bits": ({"expert_dtype": "fp4"}, floats8(), UnsupportedError, "expert_dtype"),
    "blocks of nothing": (
        {"weight_block_size": [0, 128]},
        floats8(),
        CorruptFileError,
        "weight_block_size.* is not what it must be",
    ),
    "no weight": (
        {},
        {"X.weight_scale_inv": torch.ones(1, 1), "X.q": torch.ones(1, dtype=torch.int8)},
        CorruptFileError,
        "X.weight is missing",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    changes, arrays, kind, message = REFUSED[case]
    with pytest.raises(EdgequantError, match=message) as caught:
        read_as(tmp_path, QWEN | changes, arrays)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
