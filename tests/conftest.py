"""Shared fixtures: the bundled checkpoint, and tiny random ones of every family and shape."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.archs import family_of
from runtime.errors import EdgequantError
from tests.random_checkpoint import random_checkpoint

torch.set_num_threads(1)  # small tensors: threads only wait for each other

# how long an example takes says what else the machine does
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

if not torch.cuda.is_available():
    # Triton asks on import: without a card its kernels are interpreted, on numpy
    os.environ["TRITON_INTERPRET"] = "1"

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "eos_token_id": 4093,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen2-untied": {"model_type": "qwen2", "tie_word_embeddings": False, "rope_theta": 1e6},
    "qwen2-yarn": {
        "model_type": "qwen2",
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "rope_scaling": YARN,
    },
    "llama-tied": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3,
    },
    "llama-untied": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_theta": 1e4,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "qwen3": {
        "model_type": "qwen3",
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "head_dim": 32,
    },
    "smollm3": {
        "model_type": "smollm3",
        "num_hidden_layers": 4,  # the last one has no rope
        "tie_word_embeddings": True,
        "rope_theta": 5e6,
        "pad_token_id": 4093,  # transformers' own lies outside of the vocabulary
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "tie_word_embeddings": True,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "pad_token_id": 4093,  # transformers' own is a token of texts here
    },
    "mistral": {
        "model_type": "mistral",
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "head_dim": 32,
        "sliding_window": None,  # with one: tests/windowed.py
    },
    "phi3": {
        "model_type": "phi3",
        "tie_word_embeddings": True,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1e4,
        "max_position_embeddings": 1024,
        "original_max_position_embeddings": 256,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.0, 1.25, 1.5, 1.5, 1.75, 2.0, 2.5],
            "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0],
        },
        "pad_token_id": 4093,  # transformers' own lies outside of the vocabulary
    },
}
"""What tells the random checkpoints apart; sizes are SIZES."""


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A complete config.json of one of CONFIGS."""
    facts = SIZES | CONFIGS[name] | changes
    return facts | {"architectures": [family_of(facts).hf_class], "torch_dtype": "bfloat16"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--instruction-set", help="that of our kernels, of those this processor has")


def pytest_configure(config: pytest.Config) -> None:
    """Have the kernels as on a simpler processor, from the start to the end."""
    if name := config.getoption("--instruction-set"):
        try:
            importlib.import_module("runtime._native").set_instruction_set(name)
        except EdgequantError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: as the last one it would leave all cores but one idle."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture
def native_settings() -> Iterator[Any]:
    """The compiled kernels; threads, instruction set and exactness are put back afterwards."""
    native = pytest.importorskip("runtime._native")
    threads, instructions, exact = native.threads(), native.instruction_set(), native.exact()
    yield native
    native.set_threads(threads)
    native.set_instruction_set(instructions)
    native.set_exact(exact)


@pytest.fixture
def exact_products(native_settings: Any) -> None:
    """Products of the kernels as the definition has them: activations are not rounded."""
    native_settings.set_exact(True)


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """What fsync promises, a cut of the power, is in no test of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """The bundled, trained checkpoint."""
    return open_checkpoint(bundled())


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each of CONFIGS, with random weights and biases."""
    root = tmp_path_factory.mktemp("random")
    for seed, name in enumerate(CONFIGS):
        random_checkpoint(root / name, config(name), bundled(), seed)
    return {name: root / name for name in CONFIGS}
