"""Models that read images, their language model alone: transformers, llama.cpp and onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
from runtime.errors import UnsupportedError
from tests.one_file_models import edit
from tests.small_models import kl
from tests.vision_models import HEADS, MODELS, QWEN25, nested, renamed, vision_model

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

NEAR = 2e-5
"""Of the largest logit: what the order of float32 sums leaves."""
YARN = HEADS["rope_scaling"] | {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
CONFIGS: dict[str, dict[str, Any]] = MODELS | {
    "tied": QWEN25 | {"tie_word_embeddings": True},
    "yarn": QWEN25 | {"rope_scaling": YARN},
    "windows": QWEN25 | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return vision_model(tmp_path / "model", CONFIGS[request.param])


def ids_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (2, 40))


def test_logits_of_text_equal_transformers(model: Path, exact_products: None) -> None:
    ids = ids_of(0)
    expected = open_engine(model, "transformers").logits(ids)
    for backend in ("numpy", "torch", "native"):
        engine = open_engine(open_checkpoint(model).model(), backend, purpose="judging")
        assert np.abs(engine.logits(ids) - expected).max() < NEAR * np.abs(expected).max()


@pytest.mark.parametrize(("inner", "outer"), [(True, False), (False, True), (True, None)])
def test_the_whole_model_as_transformers_saves_it(
    inner: bool, outer: bool | None, tmp_path: Path
) -> None:
    folder = vision_model(tmp_path / "x", QWEN25 | {"tie_word_embeddings": inner})
    renamed(folder, "model.language_model.", "model.visual.", head=False)
    nested(folder)
    if outer is not None:
        edit(folder, "config.json", tie_word_embeddings=outer)
    ids = ids_of(1)
    expected = open_engine(folder, "transformers").logits(ids)
    found = open_engine(open_checkpoint(folder).model(), "torch").logits(ids)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    import transformers

    folder, ids = vision_model(tmp_path / "model", QWEN25), ids_of(2)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "saved" / name).write_bytes((folder / name).read_bytes())
    expected, found = (
        open_engine(open_checkpoint(tmp_path / name).model(), "torch").logits(ids)
        for name in ("model", "saved")
    )
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


def test_a_gguf_runs_in_llama_cpp(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    ids = ids_of(3)[:, :24]  # llama.cpp sees past windows
    done = edgequant.quantize(model, "gguf:F32", tmp_path / "out", method="rtn", check=False)
    expected = open_engine(model, "transformers").logits(ids)
    assert kl(expected, open_engine(done.artifacts[0].path, "llamacpp").logits(ids)) < 1e-4


def test_an_onnx_folder_runs_in_genai(model: Path, tmp_path: Path) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    ids = ids_of(4)
    done = edgequant.quantize(model, "onnx:fp32", tmp_path / "out", method="rtn", check=False)
    path = done.artifacts[0].path
    expected = open_engine(model, "transformers").logits(ids)
    assert kl(expected, open_engine(path, "onnxruntime").logits(ids)) < 1e-6
    loaded = og.Model(str(path))
    params = og.GeneratorParams(loaded)
    params.set_search_options(max_length=64)
    generator = og.Generator(loaded, params)
    generator.append_tokens(ids[0].astype(np.int32))
    found = np.asarray(generator.get_output("logits")).reshape(-1, expected.shape[-1])[-1]
    assert kl(expected[0, -1], found) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_calibrated_files_are_judged(name: str, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "model", MODELS[name])
    flags: dict[str, Any] = {"rows": 8, "length": 32, "eval_rows": 2, "eval_length": 32}
    done = edgequant.quantize(folder, ["gguf:Q4_0", "onnx:int4"], tmp_path / "out", **flags)
    assert len(done.artifacts) == 2
    report = (tmp_path / "out" / "report.json").read_text()
    assert "are left aside" in report


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], r".*language_model.*\.down_proj"])
def test_an_adapter_of_the_language_model_is_merged(
    modules: list[str] | str, tmp_path: Path
) -> None:
    expected, found = adapted(modules, tmp_path)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_of_the_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"visual.blocks.* no part of the language model"):
        adapted(["qkv"], tmp_path)


def adapted(modules: list[str] | str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model with an adapter, those of peft and ours."""
    import torch
    import transformers

    peft = pytest.importorskip("peft")
    folder, ids = vision_model(root / "model", QWEN25), ids_of(5)
    base = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    settings = peft.LoraConfig(r=4, target_modules=modules, init_lora_weights=False)
    model = peft.get_peft_model(base, settings).eval()
    model.save_pretrained(root / "adapter")
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    merged = open_checkpoint(folder, [root / "adapter"]).model()
    return expected, open_engine(merged, "torch").logits(ids)
