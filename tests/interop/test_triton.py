"""Kernels for a card: their numbers in Triton's interpreter, and that they compile for cards."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.checkpoint import open_checkpoint
from runtime.backends.torch import TorchEngine, TorchOps, ops_on
from runtime.errors import EdgequantError
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from tests.small_models import rounded

pytest.importorskip("triton", reason="triton is not installed: pip install 'edgequant[gpu]'")

from runtime.triton import kernels  # noqa: E402
from runtime.triton.decoders import DECODERS  # noqa: E402
from runtime.triton.ops import TritonOps, TritonWeight  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_A_CARD = DEVICE == "cuda"
"""A card contracts multiplications and additions; the interpreter rounds as numpy does."""

RANDOM = np.random.default_rng(0)


def weight(kind: str, rows: int, blocks: int) -> Tensor:
    """Random weights in one layout, `blocks` blocks a row."""
    qtype = QUANT_TYPES[kind]
    cols = blocks * qtype.size
    values = RANDOM.normal(size=(rows, cols)).astype(np.float32)
    data = qtype.pack(*qtype.quantize(values))
    return Tensor("w", (rows, cols), qtype, data)


def packed(tensor: Tensor) -> tuple[TritonOps, TritonWeight]:
    """A tensor loaded for the kernels."""
    ops = TritonOps(DEVICE)
    loaded = ops.load(tensor)
    assert isinstance(loaded, TritonWeight)
    return ops, loaded


def check_product(tensor: Tensor, tokens: int) -> None:
    """The kernels' product against that with the decoded weight, in units of what is added up."""
    ops, loaded = packed(tensor)
    x = RANDOM.normal(size=(tokens, tensor.shape[1])).astype(np.float32)
    exact, decoded = x.astype(np.float64), tensor.decode().astype(np.float64).T
    found = ops.numpy(ops.matmul(torch.from_numpy(x).to(ops.device), loaded, None))
    assert found.shape == (tokens, tensor.shape[0])
    # on a card many tokens are multiplied in TF32, with 10 bits of each factor
    tolerance = 1e-3 if ON_A_CARD and tokens > kernels.FEW else 1e-6
    added_up = np.abs(exact) @ np.abs(decoded)
    assert (np.abs(found - exact @ decoded) <= tolerance * added_up).all()


def test_every_layout_that_rounds_has_a_decoder_and_floats_have_none() -> None:
    # those of INT with float16 scales hold weights that another type holds as well
    own = (q for q in QUANT_TYPES.values() if not getattr(q, "half", False) and not q.ordered)
    assert set(DECODERS) == {qtype.name for qtype in own if not qtype.is_float}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_reads_every_byte_of_a_block_once(kind: str) -> None:
    decoder, qtype = DECODERS[kind], QUANT_TYPES[kind]
    assert sum(plane.width for plane in decoder.planes) == qtype.bytes
    assert decoder.per * decoder.chunk == qtype.size


@pytest.mark.parametrize("kind", DECODERS)
def test_rows_are_decoded_as_the_layout_says(kind: str) -> None:
    tensor = weight(kind, rows=5, blocks=3)
    ops, loaded = packed(tensor)
    ids = np.array([[4, 0, 3], [3, 2, 4]], np.int32)
    found, expected = ops.numpy(ops.embed(loaded, ids)), tensor.decode()[ids]
    if ON_A_CARD:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", DECODERS)
def test_any_bytes_that_mean_finite_weights_are_decoded_as_the_layout_says(kind: str) -> None:
    qtype = QUANT_TYPES[kind]
    data = RANDOM.integers(0, 256, (12, qtype.bytes), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        data = data[np.isfinite(qtype.decode(data)).all(axis=1)]
    assert len(data) > 2
    tensor = Tensor("w", (len(data), qtype.size), qtype, data)
    ops, loaded = packed(tensor)
    found = ops.numpy(ops.embed(loaded, np.arange(len(data))))
    # a card may contract, and take numbers below float32's normal ones for 0
    least = float(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(found, tensor.decode(), rtol=1e-5 * ON_A_CARD, atol=least)


@pytest.mark.parametrize("tokens", [2, kernels.FEW + 1])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_product_is_that_with_the_decoded_weight(kind: str, tokens: int) -> None:
    check_product(weight(kind, rows=7, blocks=1 + (QUANT_TYPES[kind].size < 256)), tokens)


@pytest.mark.parametrize("tokens", [2, kernels.MOST_TOKENS + 3])
@pytest.mark.parametrize("rows", [1, kernels.ROWS + 1])
@pytest.mark.parametrize("blocks", [1, kernels.CHUNKS_A_PROGRAM // 4 + 1])
@pytest.mark.parametrize("kind", ["Q4_0", "INT8_64"])
def test_tiles_that_are_not_full_and_rows_of_several(
    kind: str, blocks: int, rows: int, tokens: int
) -> None:
    check_product(weight(kind, rows, blocks), tokens)


def test_a_value_past_float16_is_multiplied_like_any_other() -> None:
    tensor = weight("Q8_0", rows=3, blocks=1)
    ops, loaded = packed(tensor)
    x = np.zeros((kernels.FEW + 1, 32), np.float32)
    x[:, 5] = 1e30
    found = ops.numpy(ops.matmul(torch.from_numpy(x).to(ops.device), loaded, None))
    np.testing.assert_allclose(found, x @ tensor.decode().T, rtol=2e-3 if ON_A_CARD else 1e-6)


def test_a_bias_and_leading_dimensions_and_strides_are_kept() -> None:
    tensor = weight("Q4_1", rows=6, blocks=2)
    ops, loaded = packed(tensor)
    x = RANDOM.normal(size=(64, 2, 3)).astype(np.float32)
    bias = RANDOM.normal(size=6).astype(np.float32)
    on_device = torch.from_numpy(x).to(ops.device).permute(1, 2, 0)  # not contiguous
    found = ops.matmul(on_device, loaded, torch.from_numpy(bias).to(ops.device))
    expected = x.transpose(1, 2, 0) @ tensor.decode().T + bias
    np.testing.assert_allclose(ops.numpy(found), expected, atol=1e-1 if ON_A_CARD else 1e-4)


@pytest.mark.parametrize("wrong", [-1, 6])
def test_a_token_without_a_row_is_refused_before_memory_is_read(wrong: int) -> None:
    ops, loaded = packed(weight("Q4_0", rows=6, blocks=1))
    with pytest.raises(EdgequantError, match=r"outside of 0\.\.5.*tokenizer of this model"):
        ops.embed(loaded, np.array([[0, wrong]]))


def test_no_tokens_give_no_results() -> None:
    ops, loaded = packed(weight("Q4_0", rows=6, blocks=1))
    assert ops.matmul(torch.zeros(0, 32, device=ops.device), loaded, None).shape == (0, 6)
    assert ops.embed(loaded, np.zeros((1, 0), np.int32)).shape == (1, 0, 32)


@pytest.mark.parametrize("kind, shape", [("F32", (4, 32)), ("BF16", (4, 31)), ("F16", (32,))])
def test_floats_are_decoded_to_float32_on_loading(kind: str, shape: tuple[int, ...]) -> None:
    tensor = Tensor.dense("w", RANDOM.normal(size=shape).astype(np.float32), kind)
    ops = TritonOps(DEVICE)
    loaded = ops.load(tensor)
    assert isinstance(loaded, torch.Tensor)
    assert np.array_equal(ops.numpy(loaded), tensor.decode())


def test_a_weight_that_the_kernels_cannot_count_is_decoded_on_loading() -> None:
    tensor = weight("Q4_0", rows=3, blocks=2)
    assert isinstance(TritonOps(DEVICE, most_weights=3 * 64).load(tensor), TritonWeight)
    ops = TritonOps(DEVICE, most_weights=3 * 64 - 1)
    loaded = ops.load(tensor)
    assert isinstance(loaded, torch.Tensor)
    assert np.array_equal(ops.numpy(loaded), tensor.decode())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["INT4_32"])
def test_an_engine_of_packed_weights_computes_what_the_decoded_one_does(
    random_models: dict[str, Path], kind: str
) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    model = Model(checkpoint.arch, {t.name: t for t in rounded(checkpoint, kind)})
    engines = [TorchEngine(model, ops) for ops in (TritonOps(DEVICE), TorchOps(DEVICE))]
    assert isinstance(engines[0].weights["blk.0.ffn_down.weight"], TritonWeight)
    caches = [engine.new_cache(1, 8) for engine in engines]
    for ids in ([[1, 2, 3, 4, 5, 6]], [[7]]):  # a prompt, then one token
        found, expected = (
            engine.logits(np.array(ids), cache, last=True)
            for engine, cache in zip(engines, caches, strict=True)
        )
        # TF32 is for prompts on a card only
        np.testing.assert_allclose(found, expected, atol=2e-2 if ON_A_CARD else 2e-5)


def test_a_card_is_given_the_kernels_and_the_cpu_is_not() -> None:
    assert type(ops_on("cuda:0")) is TritonOps
    assert type(ops_on("cpu")) is TorchOps


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_the_kernels_compile_for_cards_without_one(arch: int, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.interop.compiled", str(arch), "Q4_K", "Q6_K", "INT4_32"],
        cwd=ROOT,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert {kernel for _, kernel, _ in lines} == {"copy_rows", "few_tokens", "many_tokens"}
    assert len(lines) == 3 * 3
    # two programs a multiprocessor have room on any card since 2020
    assert all(int(shared) <= 50_000 for _, _, shared in lines)
