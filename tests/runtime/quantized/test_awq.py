"""AWQ checkpoints are read as the very values that their codes, zero points and scales make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import float32
from tests.quantized_made import awq_gemm, awq_gemv, random_codes, read_as

SHAPE = (64, 256)


def settings(group: int = 128, version: str = "gemm", **changes: Any) -> dict[str, Any]:
    """quantization_config as AutoAWQ writes it."""
    facts = {"quant_method": "awq", "bits": 4, "group_size": group, "version": version}
    return facts | {"zero_point": True, "modules_to_not_convert": None} | changes


@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_gemm_is_read(group: int, tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, group, symmetric=False)
    arrays = {f"X.{part}": array for part, array in awq_gemm(made).items()}
    found = read_as(tmp_path, settings(group), arrays)
    assert list(found.arrays) == ["X.weight"]
    assert found.arrays["X.weight"].dtype == f"INT4_{128 if group == -1 else group}_F16"
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())


@pytest.mark.parametrize(("group", "words"), [(32, 4), (64, 2), (128, 1), (128, 3)])
def test_gemv_is_read_whatever_it_is_padded_to(group: int, words: int, tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, group, symmetric=False)
    arrays = {f"X.{part}": array for part, array in awq_gemv(made, words).items()}
    array = read_as(tmp_path, settings(group, "GEMV"), arrays).arrays["X.weight"]
    assert array.dtype == f"INT4_{group}_F16"
    assert np.array_equal(float32(array), made.values())


def test_older_names_of_the_settings_are_read(tmp_path: Path) -> None:
    made = random_codes(SHAPE, 4, 64, symmetric=False)
    arrays = {f"X.{part}": array for part, array in awq_gemm(made).items()}
    facts = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True}
    array = read_as(tmp_path, facts | {"version": "GEMM"}, arrays).arrays["X.weight"]
    assert np.array_equal(float32(array), made.values())


REFUSED = {
    "rows interleaved": ({"version": "gemv_fast"}, UnsupportedError, "version 'gemv_fast' is not"),
    "words of 16 bits": ({"backend": "llm-awq"}, UnsupportedError, "words of 16 bits"),
    "8 bits": ({"bits": 8}, UnsupportedError, "AWQ of 8 bits is not read, only of 4"),
    "no groups": ({"group_size": 0}, UnsupportedError, "in groups of 0 is not read"),
    "act-order": ({"desc_act": True}, UnsupportedError, "AWQ with desc_act is not read"),
    "an unknown setting": ({"spin": 1}, UnsupportedError, "has spin = 1, and what that does"),
    "other groups": ({"group_size": 64}, CorruptFileError, r"X.scales has .* implies \(4, 64\)"),
    "another version": ({"version": "gemv"}, CorruptFileError, "X.qzeros has shape"),
    "GPTQ": ({"quant_method": "gptq"}, UnsupportedError, "has version = 'gemm', and what"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    changes, kind, message = REFUSED[case]
    made = random_codes(SHAPE, 4, 128, symmetric=False)
    arrays = {f"X.{part}": array for part, array in awq_gemm(made).items()}
    with pytest.raises(EdgequantError, match=message) as caught:
        read_as(tmp_path, settings(**changes), arrays)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_padding_too_short_for_the_groups_is_refused(tmp_path: Path) -> None:
    made = random_codes((64, 512), 4, 32, symmetric=False)
    arrays = {f"X.{part}": array[:, :8] for part, array in awq_gemv(made, 2).items()}
    arrays["X.qweight"] = awq_gemv(made, 2)["qweight"]
    arrays["X.qzeros"] = arrays["X.qzeros"][:, :1]
    arrays = {name: torch.clone(array) for name, array in arrays.items()}
    message = r"X.qzeros has shape \(64, 1\), .* implies \(64, 2\)"
    with pytest.raises(CorruptFileError, match=message):
        read_as(tmp_path, settings(32, "gemv"), arrays)
