"""What other projects' packers make of the same codes (make_golden.py) is what is read here."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.merged import float32
from tests.quantized_made import (
    awq_gemm,
    awq_gemv,
    gptq,
    pack_quantized,
    random_codes,
    read_as,
)
from tests.runtime.quantized.make_golden import GROUP, PATH, SHAPE, digests

GOLDEN = json.loads(PATH.read_text())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_packed_as_by_auto_gptq(bits: int) -> None:
    made = random_codes(SHAPE, bits, GROUP, symmetric=True, shuffled=True)
    assert digests(gptq(made, bits)) == GOLDEN[f"gptq {bits}"]


def test_awq_is_packed_as_by_autoawq() -> None:
    made = random_codes(SHAPE, 4, GROUP, symmetric=False)
    assert digests(awq_gemm(made)) == GOLDEN["awq gemm"]
    assert digests(awq_gemv(made, 4)) == GOLDEN["awq gemv"]


@pytest.mark.parametrize("way", ["dense", "padded"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_compressed_tensors_are_packed_as_by_both_versions(bits: int, way: str) -> None:
    made = random_codes(SHAPE, bits, GROUP, symmetric=False)
    packed = pack_quantized(made, bits, symmetric=False, dense=way == "dense")
    del packed["weight_scale"], packed["weight_shape"]
    assert digests(packed) == GOLDEN[f"compressed {way} {bits}"]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_of_bitsandbytes_have_the_values_that_it_gives_them(
    kind: str, tmp_path: Path
) -> None:
    stored = dict(GOLDEN[f"bitsandbytes {kind}"])
    values = stored.pop("values")
    arrays = {}
    for name, (dtype, shape, text) in stored.items():
        kinds = {"torch.uint8": torch.uint8, "torch.float32": torch.float32}
        data = bytearray(base64.b64decode(text))
        arrays[f"X.{name}"] = torch.frombuffer(data, dtype=kinds[dtype]).reshape(shape)
    found = read_as(tmp_path, {"quant_method": "bitsandbytes"}, arrays).arrays["X.weight"]
    assert digests({"": torch.from_numpy(float32(found) + np.float32(0))}) == {"": values}
