"""YaRN in a foreign GGUF: what llama.cpp reads of it in each family, and nothing else, counts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.archs import FAMILIES
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from runtime.tensor import Tensor
from tests.conftest import YARN, config
from tests.random_checkpoint import random_checkpoint
from tests.small_models import kl

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
pytestmark = pytest.mark.numeric

IGNORED = {"yarn_beta_fast": 8.0, "yarn_beta_slow": 0.05, "yarn_ext_factor": 0.3}
IGNORED |= {"yarn_log_multiplier": 0.5, "yarn_attn_factor": 3.0}
MODELS = ["qwen2-yarn", "llama-untied", "qwen3", "smollm3", "mistral"]
CLOSE = 1e-4
"""KL in nats a token: llama.cpp keeps keys and values in float16."""


def sharp(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Weights whose queries tell positions apart."""
    for tensor in checkpoint.tensors.values():
        factor = 15 if any(part in tensor.name for part in ("attn_q.w", "attn_k.w")) else 3
        wide = tensor.decode() * np.float32(factor if tensor.is_matrix else 1)
        yield Tensor.dense(tensor.name, wide.reshape(tensor.shape))


@pytest.mark.parametrize("name", MODELS)
def test_only_the_attention_factor_of_a_foreign_yarn_counts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_checkpoint(tmp_path / "model", config(name, rope_scaling=YARN), bundled())
    model = open_checkpoint(tmp_path / "model")
    family = FAMILIES[model.arch.family]
    own = family.gguf_keys(model.arch)
    ids = np.random.default_rng(5).integers(0, 4096, (1, 200))

    def logits(changes: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Of llama.cpp and of our engine, on the same file."""
        said = {f"{family.architecture}.rope.scaling.{key}": v for key, v in changes.items()}
        monkeypatch.setattr(type(family), "gguf_keys", lambda self, arch: own | said)
        file = tmp_path / f"{len(changes)}.gguf"
        CONTAINERS["gguf"].write(file, model.arch, sharp(model), model.folder, {})
        ours = open_engine(open_gguf(file), "native", kv="f32")
        return open_engine(file, "llamacpp").logits(ids), ours.logits(ids)

    plain, ours = logits({})
    assert kl(plain, ours) < CLOSE
    ignored, ours = logits(IGNORED)
    assert kl(plain, ignored) < 1e-9
    assert kl(ignored, ours) < CLOSE
    counted, ours = logits({"attn_factor": 1.3})
    assert kl(plain, counted) > 20 * CLOSE
    assert kl(counted, ours) < CLOSE
