"""A model in each type that is read and never written: our engines against llama.cpp.

llama.cpp rounds activations to 8 bits before it multiplies, and so does the native engine, each in
blocks of its own; numpy does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import calib_data
from export.gguf import write
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.archs import family_of
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from runtime.gguf_scales import ATTENTION, FEED_FORWARD
from runtime.quant_types import QuantType
from runtime.quant_types.read_only import READ_ONLY
from runtime.tensor import Tensor
from tests.conftest import CONFIGS, config
from tests.moe_models import QWEN2, QWEN3, moe
from tests.random_checkpoint import random_checkpoint
from tests.small_models import kl

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

from tests.interop import ggml  # noqa: E402

TYPES = [qtype for qtype in READ_ONLY.values() if qtype.ggml_type is not None]


@pytest.fixture(scope="module")
def ids(tiny: Checkpoint) -> np.ndarray:
    """Two windows of built-in text: (2, 96)."""
    path = Path(calib_data.__file__).parent / "texts" / "prose.essays.txt"
    return np.array(tiny.tokenizer.encode(path.read_text("utf-8"))[:192]).reshape(2, 96)


def rounded_by_ggml(checkpoint: Checkpoint, qtype: QuantType) -> Iterator[Tensor]:
    """The tensors, the matrices of the layers in a type, but for routers; all others in F32."""
    for tensor in checkpoint.tensors.values():
        values = tensor.decode()
        if not tensor.is_matrix or not tensor.name.startswith("blk.") or "_inp" in tensor.name:
            yield Tensor.dense(tensor.name, values)
        else:
            rows = values.reshape(-1, values.shape[-1])
            yield Tensor(tensor.name, tensor.shape, qtype, ggml.quantized(rows, qtype))


def written(path: Path, checkpoint: Checkpoint, tensors: Iterable[Tensor]) -> Path:
    write(path, checkpoint.arch, tensors, checkpoint.folder, {"preset": "other"})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("qtype", TYPES, ids=lambda qtype: qtype.name)
def test_a_model_is_computed_as_llama_cpp_computes_it(
    tiny: Checkpoint, tmp_path: Path, ids: np.ndarray, qtype: QuantType, native_settings: Any
) -> None:
    path = written(tmp_path / "x.gguf", tiny, rounded_by_ggml(tiny, qtype))
    model = open_gguf(path)
    assert model.tensors["blk.0.ffn_up.weight"].qtype is qtype
    decoded = (Tensor.dense(name, t.decode()) for name, t in model.tensors.items())
    twin = written(tmp_path / "twin.gguf", tiny, decoded)
    theirs, exact = (open_engine(p, "llamacpp", threads=1).logits(ids) for p in (path, twin))
    native = open_engine(model, "native", purpose="judging")
    native_settings.set_exact(True)
    assert kl(exact, native.logits(ids)) < 1e-5  # the float16 cache of llama.cpp
    assert kl(exact, open_engine(model, "numpy").logits(ids)) < 1e-5
    # activations in 8 bits, as llama.cpp has them: no further from it than it is from itself
    native_settings.set_exact(False)
    assert kl(theirs, native.logits(ids)) < 3 * kl(exact, theirs)


def in_nvfp4(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """As `rounded_by_ggml`, and a head that is not tied in NVFP4, too."""
    qtype = READ_ONLY["NVFP4"]
    for tensor in rounded_by_ggml(checkpoint, qtype):
        if tensor.name == "output.weight":
            yield replace(tensor, qtype=qtype, data=ggml.quantized(tensor.decode(), qtype))
        else:
            yield tensor


def with_scales(base: Path, path: Path, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Copy a file and add scales of some NVFP4 weights, other ones for each and every expert.

    Returns them by their weights.
    """
    reader, rng = gguf.GGUFReader(base), np.random.default_rng(4)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    scales = {}
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if tensor.name.split(".")[-2] in parts and tensor.name.endswith(".weight"):
            count = int(tensor.shape[2]) if len(tensor.shape) == 3 else 1
            scales[tensor.name] = rng.uniform(0.3, 1.7, count).astype(np.float32)
            name = tensor.name.removesuffix("weight")
            writer.add_tensor(name + "scale", scales[tensor.name])
            writer.add_tensor(name + "input_scale", np.full(count, 7.0, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return scales


WIDE = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
EXPERTS = {"qwen2moe": QWEN2, "qwen3moe": QWEN3}
LEFT_OUT = [
    name for name, facts in (CONFIGS | EXPERTS).items() if not family_of(facts).gguf_ffn_scales
]
"""Models whose feed-forward llama.cpp computes without its scales."""


def small_model(folder: Path, name: str) -> Checkpoint:
    """One of CONFIGS or EXPERTS, in rows of whole NVFP4 blocks.

    Without biases in the feed-forward, beside which llama.cpp takes no scales.
    """
    if name in EXPERTS:
        moe(folder, EXPERTS[name] | {"moe_intermediate_size": 64})
    else:
        random_checkpoint(folder, config(name, **WIDE, mlp_bias=False), bundled())
    return open_checkpoint(folder)


# in Gemma 3 norms behind attention take its scales away again
SEEN = [name for name in (*CONFIGS, *EXPERTS) if name != "gemma3"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN)
def test_the_scales_of_nvfp4_tensors_are_those_of_llama_cpp(tmp_path: Path, name: str) -> None:
    checkpoint = small_model(tmp_path / "model", name)
    plain = written(tmp_path / "plain.gguf", checkpoint, in_nvfp4(checkpoint))
    parts = ATTENTION if name in LEFT_OUT else (*ATTENTION, *FEED_FORWARD)
    ids = np.random.default_rng(0).integers(0, 4096, (1, 60))
    path = tmp_path / "scaled.gguf"
    scales = with_scales(plain, path, parts)
    expected = open_engine(path, "llamacpp", threads=1).logits(ids)
    model = open_gguf(path)
    for weight, scale in scales.items():
        np.testing.assert_array_equal(model.tensors[weight].scales, scale)
    without = kl(expected, open_engine(plain, "llamacpp", threads=1).logits(ids))
    for backend in ("native", "numpy", "torch"):
        assert kl(expected, open_engine(model, backend).logits(ids)) < 0.1 * without


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT_OUT)
def test_scales_that_llama_cpp_leaves_out_are_refused(tmp_path: Path, name: str) -> None:
    checkpoint = small_model(tmp_path / "model", name)
    plain = written(tmp_path / "plain.gguf", checkpoint, in_nvfp4(checkpoint))
    path, ids = tmp_path / "scaled.gguf", np.arange(60)[None]
    with_scales(plain, path, FEED_FORWARD)
    with pytest.raises(EdgequantError, match=r"ffn_.*scale, which llama.cpp leaves out of a"):
        open_gguf(path)
    engines = (open_engine(p, "llamacpp", threads=1) for p in (plain, path))
    expected, found = (engine.logits(ids) for engine in engines)
    np.testing.assert_array_equal(found, expected)
