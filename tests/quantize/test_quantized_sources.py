"""Checkpoints that other tools quantized are sources like any other: their values are the original.

What each format's bytes mean is tested in tests/runtime/quantized.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from quantize.report.original import open_original
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from tests.conftest import config
from tests.moe_models import QWEN3
from tests.quantized_made import (
    Codes,
    Tensors,
    awq_gemm,
    gptq,
    pack_quantized,
    quantized_checkpoint,
    random_codes,
    scaled_floats,
)
from tests.random_checkpoint import random_checkpoint

Make = Callable[[str, torch.Tensor], tuple[Tensors, np.ndarray]]

SIZES = {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4}
IDS = np.arange(24).reshape(1, 24)
QWEN_GPTQ = {
    "batch_size": 1,
    "bits": 4,
    "block_name_to_quantize": None,
    "cache_block_outputs": True,
    "damp_percent": 0.01,
    "dataset": None,
    "desc_act": False,
    "exllama_config": {"version": 1},
    "group_size": 128,
    "max_input_length": None,
    "model_seqlen": None,
    "module_name_preceding_first_block": None,
    "modules_in_block_to_quantize": None,
    "pad_token_id": None,
    "quant_method": "gptq",
    "sym": True,
    "tokenizer": None,
    "true_sequential": True,
    "use_cuda_fp16": False,
    "use_exllama": True,
}
"""quantization_config of Qwen's GPTQ releases."""


def each(bits: int, group: int, store: Callable[[Codes], Tensors], **changes: Any) -> Make:
    """Other codes for every module, 1/sqrt(in) large."""
    seeds = iter(range(10_000))

    def make(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        out, cols = weight.shape
        made = random_codes((out, cols), bits, group, seed=next(seeds), **changes)
        scale = 2.0 ** -(bits - 1) / cols**0.5
        made = made._replace(scales=np.float16(made.scales * 50 * scale).astype(np.float32))
        if module.endswith(("gate_proj", "up_proj")):
            made.codes[1:128:2] = 1 << (bits - 1)  # as Qwen pads the 72B: a row of 0 after each
        return store(made), made.values()

    return make


QWEN_AWQ = {
    "bits": 4,
    "group_size": 128,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
"""quantization_config of Qwen's AWQ releases."""

QWEN_FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
"""quantization_config of Qwen's FP8 releases."""
W4A16 = {
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128},
        }
    },
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}
"""quantization_config of llm-compressor's W4A16."""


def floats8(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """A weight in blocks of 128 x 128."""
    out, cols = weight.shape
    codes, scale, values = scaled_floats((out, cols), (128, 128), seed=len(module))
    return {"weight": codes, "weight_scale_inv": scale}, values


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Make]] = {
    "GPTQ int4": (QWEN_GPTQ, {}, each(4, 128, lambda made: gptq(made, 4))),
    "GPTQ int8": (QWEN_GPTQ | {"bits": 8}, {}, each(8, 128, lambda made: gptq(made, 8))),
    "GPTQ act-order": (  # q, k and v each in an order of their own
        QWEN_GPTQ | {"desc_act": True, "sym": False},
        {},
        each(4, 128, lambda made: gptq(made, 4), symmetric=False, shuffled=True),
    ),
    "AWQ": (QWEN_AWQ, {}, each(4, 128, awq_gemm, symmetric=False)),
    "FP8": (QWEN_FP8, {"intermediate_size": 320, "hidden_size": 224}, floats8),
    "FP8 experts": (QWEN_FP8, QWEN3, floats8),
    "W4A16": (W4A16, {}, each(4, 128, lambda made: pack_quantized(made, 4))),
    "GPTQ experts": (
        QWEN_GPTQ | {"group_size": 32},
        QWEN3,
        each(4, 32, lambda made: gptq(made, 4)),
    ),
}
"""Name -> quantization_config, config.json beside Qwen2's, and how a weight is stored."""


class Sources(dict[str, tuple[Path, Path]]):
    """By case: a quantized checkpoint, and its values in floats; made when asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> tuple[Path, Path]:
        settings, changes, make = CASES[name]
        plain = self.root / name
        random_checkpoint(plain, config("qwen2-tied", **(SIZES | changes)), bundled())
        self[name] = quantized_checkpoint(self.root / f"{name} made", plain, settings, make)
        return self[name]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_that_of_the_values(case: str, sources: Sources) -> None:
    logits = []
    for folder in sources[case]:
        engine = open_engine(open_checkpoint(folder).model(), "torch")
        logits.append(engine.logits(IDS, engine.new_cache(1, IDS.size)))
    assert np.array_equal(*logits)


@pytest.mark.parametrize("case", CASES)
def test_the_native_engine_runs_what_is_packed(
    case: str, sources: Sources, exact_products: None
) -> None:
    logits = []
    for folder in sources[case]:
        engine = open_engine(open_checkpoint(folder).model(), "native")
        logits.append(engine.logits(IDS, engine.new_cache(1, IDS.size)))
    assert np.allclose(*logits, atol=1e-4 * np.abs(logits[0]).max())


def test_a_packed_original_is_judged_without_rounded_activations(
    sources: Sources, native_settings: Any
) -> None:
    native_settings.set_exact(False)
    source = open_checkpoint(sources["GPTQ int4"][0])
    quick = open_engine(source.model(), "native", kv="f32")
    exact = open_original(source, "native", "cpu")
    expected = open_engine(source.model(), "torch").logits(IDS)
    far, near = (np.abs(engine.logits(IDS) - expected).max() for engine in (quick, exact))
    assert near < 1e-4 * np.abs(expected).max() < far
    assert not native_settings.exact()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_keeps_its_values_and_says_what_the_source_was(
    case: str, sources: Sources, tmp_path: Path, run: Any
) -> None:
    quantized, floats = sources[case]
    settings: dict[str, Any] = {"rows": 2, "length": 64, "effort": "low"}
    settings |= {"eval_rows": 1, "eval_length": 64}
    forecast = edgequant.plan(quantized, to="gguf:Q8_0", **settings)
    made = edgequant.quantize(quantized, to="gguf:Q8_0", output=tmp_path / "out", **settings)
    (artifact,) = made.artifacts
    assert [target.bytes for target in forecast.targets] == [artifact.bytes]
    checked = edgequant.check(artifact.path, against=floats, eval_rows=1, eval_length=64)
    assert made.report and checked.results[0].metrics.kl == pytest.approx(
        made.report.results[0].metrics.kl, rel=1e-4, abs=1e-9
    )
    told = open_checkpoint(quantized).notes
    assert any("the original that artifacts are compared with" in note for note in told)
    code, out, _ = run("generate", quantized, "Hello", "-n", 4)
    assert code == 0 and out


@pytest.mark.slow
def test_the_values_of_4_bits_in_groups_of_128_are_q4_0_without_an_error(
    sources: Sources,
) -> None:
    forecast = edgequant.plan(sources["GPTQ int4"][0], to="gguf:Q4_0", method="rtn")
    errors = {t.name: t.error for t in forecast.targets[0].tensors if t.type == "Q4_0"}
    assert len(errors) == 14 and max(errors.values()) == 0


def test_a_forecast_counts_what_is_unpacked(sources: Sources) -> None:
    source = open_checkpoint(sources["GPTQ int4"][0])
    codes, scales, zeros, order = 384 * 256 // 2, 384 * 2 * 2, 384 * 2 // 2, 256 * 4
    stored = codes + scales + zeros + order
    packed = 384 * 256 // 128 * 66
    assert source.tensors.nbytes("blk.0.ffn_up.weight") == stored + packed
    scattered = open_checkpoint(sources["GPTQ act-order"][0])
    assert scattered.tensors.nbytes("blk.0.ffn_up.weight") == stored + 384 * 256 // 128 * 67
    linears = [t for n, t in scattered.tensors.shapes.items() if "blk" in n and len(t) == 2]
    assert scattered.computed_bytes == sum(rows * cols for rows, cols in linears) // 128 * 67


def test_experts_of_which_some_are_in_act_order_are_float32(tmp_path: Path) -> None:
    orders = iter([True, False] * 100)

    def make(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        out, cols = weight.shape
        made = random_codes((out, cols), 4, 32, shuffled=next(orders))
        return gptq(made, 4), made.values()

    random_checkpoint(tmp_path / "source", config("qwen2-tied", **QWEN3), bundled())
    settings = QWEN_GPTQ | {"group_size": 32, "desc_act": True}
    folders = quantized_checkpoint(tmp_path / "made", tmp_path / "source", settings, make)
    ours, floats = (
        open_checkpoint(folder).tensors["blk.1.ffn_gate_exps.weight"] for folder in folders
    )
    assert ours.qtype.name == "F32"
    assert np.array_equal(ours.decode(), floats.decode())


def test_parts_of_a_weight_may_lie_in_several_files(sources: Sources, tmp_path: Path) -> None:
    quantized, floats = sources["GPTQ int4"]
    arrays = load_file(quantized / "model.safetensors")
    for file in quantized.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = {name: f"model-{'scales' in name}.safetensors" for name in arrays}
    for shard in set(table.values()):
        save_file({n: a for n, a in arrays.items() if table[n] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    checkpoint, original = open_checkpoint(tmp_path), open_checkpoint(floats)
    assert [shard.name for shard in checkpoint.shards] == sorted(set(table.values()))
    for name in checkpoint.tensors:
        assert np.array_equal(checkpoint.tensors[name].decode(), original.tensors[name].decode())


def test_settings_may_stand_in_a_file_of_their_own(sources: Sources, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sources["GPTQ int4"][0], folder)
    config_file = json.loads((folder / "config.json").read_text())
    settings = config_file.pop("quantization_config")
    del settings["quant_method"]  # as auto-gptq writes it
    (folder / "config.json").write_text(json.dumps(config_file))
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    assert "GPTQ of 4 bits" in " ".join(open_checkpoint(folder).notes)
    both = config_file | {"quantization_config": settings | {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(both))
    assert "quantize_config.json" not in " ".join(open_checkpoint(folder).notes)
    (folder / "quantize_config.json").write_text(json.dumps(settings | {"bits": 8}))
    told = "config.json says how it was quantized; quantize_config.json has another bits"
    assert told in open_checkpoint(folder).notes


def test_weights_under_auto_gptq_s_name_are_told(sources: Sources, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sources["GPTQ int4"][0], folder)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-128g.safetensors")
    with pytest.raises(EdgequantError, match="but gptq_model-4bit-128g.safetensors; rename that"):
        open_checkpoint(folder)


def test_a_lora_is_merged_into_the_values(sources: Sources, tmp_path: Path) -> None:
    rank, module = 4, "base_model.model.model.layers.0.mlp.up_proj"
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"{module}.lora_A.weight": torch.randn(rank, 256, generator=generator),
        f"{module}.lora_B.weight": torch.randn(384, rank, generator=generator),
    }
    save_file(factors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    merged = [open_checkpoint(folder, [tmp_path]).tensors for folder in sources["GPTQ int4"]]
    for name in merged[0]:
        assert np.array_equal(merged[0][name].decode(), merged[1][name].decode())
    assert merged[0]["blk.0.ffn_up.weight"].qtype.name == "F32"
    assert merged[0]["blk.0.ffn_gate.weight"].qtype.name == "INT4_128_SYM_F16"


def test_a_vocabulary_as_large_as_a_layer_is_read(tmp_path: Path) -> None:
    sizes = SIZES | {"intermediate_size": 4096, "num_hidden_layers": 1, "hidden_size": 64}
    random_checkpoint(tmp_path / "source", config("qwen2-untied", **sizes), bundled())
    make = each(4, 64, lambda made: gptq(made, 4))
    settings = QWEN_GPTQ | {"group_size": 64}
    folders = quantized_checkpoint(tmp_path / "made", tmp_path / "source", settings, make)
    ours, floats = (open_checkpoint(folder).tensors for folder in folders)
    assert ours["output.weight"].qtype.name == "F16"
    for name in ours:
        assert np.array_equal(ours[name].decode(), floats[name].decode())


REFUSED = {
    "an unknown method": ({"quant_method": "quip"}, r"is already quantized \(quip, 4 bits\)"),
    "no method": ({"quant_method": None}, r"is already quantized \(4 bits\)"),
    "other bits": ({"bits": 3}, r"down_proj.scales has shape \(3, 256\), .* implies \(4, 256\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_before_any_work(
    case: str, sources: Sources, tmp_path: Path, run: Any
) -> None:
    changes, message = REFUSED[case]
    folder = tmp_path / "model"
    shutil.copytree(sources["GPTQ int4"][0], folder)
    config_file = json.loads((folder / "config.json").read_text())
    config_file["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config_file))
    code, _, err = run("run", folder, "--to", "gguf:Q4_0", "-o", tmp_path / "out")
    assert code == 2 and re.search(message, " ".join(err.split()))
    assert not (tmp_path / "out").exists()
