"""Quantized checkpoints have the logits that transformers computes of them, on a CPU."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.merged import float32
from tests.conftest import config
from tests.quantized_made import (
    Tensors,
    awq_gemm,
    gptq,
    pack_quantized,
    quantized_checkpoint,
    random_codes,
    read_as,
    scaled_floats,
)
from tests.random_checkpoint import random_checkpoint

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)
pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4}
IDS = np.arange(24).reshape(1, 24)
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head"],
}
W4A16 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128},
        }
    },
}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
    "llm_int8_skip_modules": ["lm_head"],
}


def blocks(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """FP8 of whole blocks: of others transformers takes another size on a CPU."""
    codes, scale, values = scaled_floats(tuple(weight.shape), (128, 128), seed=len(module))
    return {"weight": codes, "weight_scale_inv": scale}, values


def packed(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """Codes of 4 bits with scales in float32, in which transformers then multiplies."""
    made = random_codes(tuple(weight.shape), 4, 128, seed=len(module))
    arrays = pack_quantized(made, 4)
    return arrays | {"weight_scale": arrays["weight_scale"].float()}, made.values()


def nf4(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """What bitsandbytes makes of a weight, and what it makes of that."""
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(
        weight.float(), quant_type="nf4", compress_statistics=True
    )
    arrays = {f"weight.{name}": array for name, array in state.as_dict(packed=True).items()}
    return {"weight": codes} | arrays, functional.dequantize_4bit(codes, state).numpy()


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_settings_that_transformers_writes_are_read(method: str, tmp_path: Path) -> None:
    made = random_codes((64, 256), 4, 128)
    if method == "gptq":
        settings, arrays = transformers.GPTQConfig(bits=4), gptq(made, 4)
    else:
        settings, arrays = transformers.AwqConfig(), awq_gemm(made)
    facts = json.loads(json.dumps(settings.to_dict()))
    found = read_as(tmp_path, facts, {f"X.{part}": array for part, array in arrays.items()})
    assert np.array_equal(float32(found.arrays["X.weight"]), made.values())


CASES: dict[str, tuple[dict[str, Any], Callable[..., Any], str]] = {
    "FP8": (FP8, blocks, "accelerate"),
    "compressed-tensors": (W4A16, packed, "compressed_tensors"),
    "bitsandbytes": (NF4, nf4, "bitsandbytes"),
}
"""Name -> quantization_config, how a weight is stored, and the package that transformers needs."""


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    settings, make, package = CASES[case]
    pytest.importorskip(package)
    random_checkpoint(tmp_path / "source", config("qwen2-untied", **SIZES), bundled())
    folder, _ = quantized_checkpoint(tmp_path / "made", tmp_path / "source", settings, make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not ours
        oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():  # .float() of its own refuses, and leaves biases in float16
            expected = torch.nn.Module.float(oracle)(torch.from_numpy(IDS)).logits.numpy()
    found = open_engine(open_checkpoint(folder).model(), "torch").logits(IDS)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
