"""Mixtures of experts: logits of transformers, and GGUF files in llama.cpp or their refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import open_checkpoint
from runtime.archs import family_of
from runtime.archs.experts import MoEArch
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from runtime.model import Model
from runtime.onnx_file import open_onnx
from tests.moe_models import MODELS, QWEN2, QWEN3, moe
from tests.one_file_models import SIZES
from tests.small_models import kl

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

NEAR = 2e-5
"""Of the largest logit: what the order of float32 sums leaves."""


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A checkpoint, and how GGUF is refused."""
    config, sentence = MODELS[request.param]
    return moe(tmp_path / "model", config), sentence


def ids_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (2, 40))


def test_logits_equal_transformers(model: tuple[Path, str], exact_products: None) -> None:
    folder, ids = model[0], ids_of(0)
    expected = open_engine(folder, "transformers").logits(ids)
    for backend in ("numpy", "torch", "native"):
        engine = open_engine(open_checkpoint(folder).model(), backend, purpose="judging")
        found = engine.logits(ids)
        assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()
        cache = engine.new_cache(2, 40)
        engine.logits(ids[:, :39], cache)
        last = engine.logits(ids[:, 39:], cache)
        assert np.abs(last - expected[:, 39:]).max() < NEAR * np.abs(expected).max()


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_the_number_of_experts_is_transformers_s(config: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    both = SIZES | config | {"num_experts": 6, "num_local_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps(both))
    expected = transformers.AutoConfig.from_pretrained(tmp_path).num_experts
    arch = family_of(both).arch(both)
    assert isinstance(arch, MoEArch)
    assert arch.experts == expected


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_experts_that_transformers_saves_are_read(config: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    folder, ids = moe(tmp_path / "model", config), ids_of(1)
    expected = open_engine(folder, "transformers").logits(ids)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "saved" / name).write_bytes((folder / name).read_bytes())
    for path in (tmp_path / "saved", moe(tmp_path / "fused", config, fuse=True)):
        found = open_engine(open_checkpoint(path).model(), "torch").logits(ids)
        assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


def test_gguf_is_what_transformers_computes_or_refused(
    model: tuple[Path, str], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    folder, sentence = model
    if sentence:
        with pytest.raises(EdgequantError, match=sentence) as caught:
            edgequant.quantize(folder, "gguf:F32", tmp_path / "out", method="rtn", check=False)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out/*"))
        return
    done = edgequant.quantize(folder, "gguf:F32", tmp_path / "out", method="rtn", check=False)
    compare_in_llamacpp(folder, done.artifacts[0].path)


@pytest.mark.parametrize("preset", ["fp32", "int4", "int8"])
def test_an_onnx_folder_computes_what_transformers_does(
    model: tuple[Path, str], preset: str, tmp_path: Path
) -> None:
    done = edgequant.quantize(
        model[0], f"onnx:{preset}", tmp_path / "out", method="rtn", check=False
    )
    path, ids = done.artifacts[0].path, ids_of(4)
    found = open_engine(path, "onnxruntime", accuracy_level=0).logits(ids)
    assert kl(open_engine(open_onnx(path), "numpy").logits(ids), found) < 1e-8
    if preset == "fp32":
        assert kl(open_engine(model[0], "transformers").logits(ids), found) < 1e-8


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_genai_generates_from_a_folder_of_experts_what_our_engine_does(
    config: dict[str, Any], tmp_path: Path
) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    folder = moe(tmp_path / "model", config)
    done = edgequant.quantize(folder, "onnx:int4", tmp_path / "out", method="rtn", check=False)
    path, ids = done.artifacts[0].path, ids_of(5)[0, :24]
    generator = og.Generator(theirs := og.Model(str(path)), og.GeneratorParams(theirs))
    engine = open_engine(path, "onnxruntime")
    cache = engine.new_cache(1, 40)
    piece = ids
    for _ in range(8):  # a prompt, then the token that came out
        generator.append_tokens(piece)
        expected = engine.logits(piece[None], cache, last=True)
        assert kl(expected, np.asarray(generator.get_logits())) < 1e-6
        piece = expected[0, -1].argmax(keepdims=True)


def compare_in_llamacpp(folder: Path, path: Path) -> None:
    """The file computes what transformers does."""
    ids = ids_of(2)
    expected = open_engine(folder, "transformers").logits(ids)
    assert kl(expected, open_engine(path, "llamacpp").logits(ids)) < 1e-4


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_experts_that_were_rounded_one_by_one_run_in_llama_cpp(
    config: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    folder = moe(tmp_path / "model", config)
    flags: dict[str, Any] = {"rows": 8, "length": 32, "check": False, "rules": ["exps=Q4_0"]}
    done = edgequant.quantize(folder, "gguf:Q8_0", tmp_path / "out", **flags)
    path, ids = done.artifacts[0].path, ids_of(3)
    ours = open_engine(open_gguf(path), "torch").logits(ids)
    # activations in 8 bits turn some of a random model's near ties between experts
    assert kl(ours, open_engine(path, "llamacpp").logits(ids)) < 0.05
    shuffled = open_gguf(path)
    experts = shuffled.tensors["blk.1.ffn_down_exps.weight"]
    data = experts.data.reshape(6, -1)[::-1].reshape(experts.data.shape)
    changed = dict(shuffled.tensors) | {experts.name: replace(experts, data=data)}
    wrong = open_engine(Model(shuffled.arch, changed, shuffled.tokenizer), "torch").logits(ids)
    assert kl(ours, wrong) > 0.1  # so that experts in another order would show
