"""Our forward is the model: logits against transformers on the same checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import CONTAINERS
from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.rope import Rope
from tests.conftest import CONFIGS, LLAMA3, YARN
from tests.small_models import rounded

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)


@pytest.fixture(params=["bundled", *CONFIGS])
def folder(request: pytest.FixtureRequest, random_models: dict[str, Path]) -> Path:
    return bundled() if request.param == "bundled" else random_models[request.param]


@pytest.mark.parametrize("backend", ["numpy", "torch", "native"])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_equal_transformers(
    folder: Path, backend: str, batch: int, request: pytest.FixtureRequest
) -> None:
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = np.random.default_rng(batch).integers(0, 4096, (batch, 40))
    with torch.no_grad():
        expected = oracle(torch.from_numpy(ids)).logits.numpy()
    options = {}
    if backend == "native":
        request.getfixturevalue("exact_products")
        options = {"kv": "f32"}
    engine = open_engine(open_checkpoint(folder).model(), backend, **options)
    assert np.abs(engine.logits(ids) - expected).max() < 1e-4
    cache = engine.new_cache(batch, 40)
    engine.logits(ids[:, :25], cache)
    steps = [engine.logits(ids[:, at : at + 1], cache, last=True) for at in range(25, 40)]
    assert np.abs(np.concatenate(steps, 1) - expected[:, 25:]).max() < 1e-4


def test_onnx_logits_equal_transformers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = open_checkpoint(folder)
    tensors = rounded(checkpoint, "F32")
    CONTAINERS["onnx"].write(tmp_path / "x", checkpoint.arch, tensors, checkpoint.folder, {})
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = np.random.default_rng(2).integers(0, 4096, (2, 40))
    with torch.no_grad():
        expected = oracle(torch.from_numpy(ids)).logits.numpy()
    found = open_engine(tmp_path / "x", "onnxruntime", threads=1, accuracy_level=0).logits(ids)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, {"rope_type": "linear", "factor": 3.0}, None])
def test_rope_frequencies_equal_transformers(scaling: dict[str, Any] | None) -> None:
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_theta": 5e5, **(scaling or {"rope_type": "default"})},
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    positions = torch.arange(200)[None]
    cos, sin = embedding(torch.zeros(1), positions)
    ours = Rope.from_config(config.to_dict()).tables(0, 200, 128)
    np.testing.assert_allclose(ours[0], cos[0, :, :64].numpy(), atol=2e-5)
    np.testing.assert_allclose(ours[1], sin[0, :, :64].numpy(), atol=2e-5)


def test_chat_template_renders_as_in_transformers(tiny) -> None:
    oracle = transformers.AutoTokenizer.from_pretrained(bundled())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>"}]
    expected = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tiny.tokenizer.render(messages, generate=True) == expected


def test_tools_reach_the_chat_template_as_in_transformers(tiny) -> None:
    oracle = transformers.AutoTokenizer.from_pretrained(bundled())
    template = "{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
    ours = replace(tiny.tokenizer, chat_template=template)
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    messages = [{"role": "user", "content": "Hi"}]
    for tools in (None, [tool]):
        expected = oracle.apply_chat_template(
            messages, tools=tools, chat_template=template, tokenize=False
        )
        assert ours.render(messages, tools=tools) == expected
