"""auto-round's folders are read as the codes, zero points and scales that they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import EdgequantError, UnsupportedError
from runtime.merged import float32
from tests.quantized_made import Codes, Tensors, awq_gemm, gptq, random_codes, read_as

SHAPE = (64, 256)


def settings(packing: str | None, bits: int = 4, **changes: Any) -> dict[str, Any]:
    """quantization_config as auto-round 0.16 writes it."""
    facts = {"quant_method": "auto-round", "bits": bits, "group_size": 32, "sym": False}
    made = {"amp": False, "autoround_version": "0.16.1", "block_name_to_quantize": "model.layers"}
    kind = {"data_type": "int", "enable_quanted_input": False, "iters": 200}
    return facts | made | kind | ({"packing_format": packing} if packing else {}) | changes


def stored(module: str, made: Codes, bits: int, version: int) -> Tensors:
    arrays = gptq(made, bits, version=version, g_idx=False)
    return {f"{module}.{part}": array for part, array in arrays.items()}


@pytest.mark.parametrize(
    ("packing", "version"),
    [("auto_round:auto_gptq", 1), (None, 1), ("auto_round", 2), ("auto_round:gptqmodel", 2)],
)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_points_are_those_of_the_packing(
    packing: str | None, version: int, bits: int, tmp_path: Path
) -> None:
    made = random_codes(SHAPE, bits, 32, symmetric=False)
    found = read_as(tmp_path, settings(packing, bits), stored("X", made, bits, version))
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())


def test_its_exports_as_gptq_and_awq_are_read(tmp_path: Path) -> None:
    """`format="auto_gptq"` and `"auto_awq"`, as auto-round 0.16.1 writes their settings."""
    common = {"amp": False, "autoround_version": "0.16.1", "bits": 4, "data_type": "int"}
    common |= {"group_size": 32, "iters": 200, "provider": "auto-round", "sym": True}
    as_gptq = {"damp_percent": 0.01, "desc_act": False, "lm_head": False, "quant_method": "gptq"}
    as_awq = {"modules_to_not_convert": ["lm_head"], "quant_method": "awq", "version": "gemm"}
    as_awq |= {"to_quant_block_names": "model.layers", "zero_point": False}
    made = random_codes(SHAPE, 4, 32)
    awq = {f"X.{part}": array for part, array in awq_gemm(made).items()}
    for own, arrays in ((as_gptq, stored("X", made, 4, 1)), (as_awq, awq)):
        found = read_as(tmp_path, common | own, arrays)
        assert np.array_equal(float32(found.arrays["X.weight"]), made.values())
        with pytest.raises(UnsupportedError, match="of mx_fp is not read, only int"):
            read_as(tmp_path, common | own | {"data_type": "mx_fp"}, arrays)


def test_awq_is_another_packing(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 32, symmetric=False)
    arrays = {f"X.{part}": array for part, array in awq_gemm(made).items()}
    found = read_as(tmp_path, settings("auto_round:auto_awq"), arrays)
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())


@pytest.mark.parametrize("key", ["layers.0.up", "layers.*up$", r"0\.up"])
def test_linears_that_differ_are_named_or_found_by_a_pattern(key: str, tmp_path: Path) -> None:
    wide, narrow = random_codes(SHAPE, 8, 64, symmetric=False), random_codes(SHAPE, 4, 32, False)
    arrays = stored("layers.0.up", wide, 8, 2) | stored("layers.0.down", narrow, 4, 2)
    extra = {"layers.1.q": {"bits": 16, "data_type": "float"}, key: {"bits": 8, "group_size": 64}}
    found = read_as(tmp_path, settings("auto_round", extra_config=extra), arrays)
    for name, made in (("up", wide), ("down", narrow)):
        assert np.array_equal(float32(found.arrays[f"layers.0.{name}.weight"]), made.values())


def test_a_name_goes_before_a_pattern(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 8, 32, symmetric=False)
    extra = {"layers": {"bits": 2}, "layers.0.up": {"bits": 8}}
    found = read_as(
        tmp_path, settings("auto_round", extra_config=extra), stored("layers.0.up", made, 8, 2)
    )
    assert np.array_equal(float32(found.arrays["layers.0.up.weight"]), made.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packing_format": "auto_round:mlx"}, "packed as 'auto_round:mlx' is not read"),
        ({"data_type": "mx_fp"}, "auto-round of mx_fp"),
        ({"rotation_config": {"size": 32}}, "rotation_config = .* is not known"),
        ({"extra_config": {"(": {"bits": 8}}}, "which is no pattern"),
        ({"bits": 5}, "GPTQ of 5 bits"),
    ],
)
def test_what_is_not_read_is_a_sentence(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    arrays = stored("X", random_codes(SHAPE, 4, 32, symmetric=False), 4, 2)
    with pytest.raises(EdgequantError, match=said) as caught:
        read_as(tmp_path, settings("auto_round") | changes, arrays)
    assert isinstance(caught.value, UnsupportedError) or "pattern" in said
