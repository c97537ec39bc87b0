"""The C++ kernels against the formats' own readers, against float64, and as an engine."""

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

import runtime
from export.gguf import write
from quantize.checkpoint import Checkpoint
from runtime import memory
from runtime.engine import OpsEngine, open_engine
from runtime.errors import EdgequantError
from runtime.generate import generate
from runtime.gguf_file import open_gguf
from runtime.memory import mapping_of
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES, quant_type
from runtime.quant_types.read_only import READ_ONLY
from runtime.tensor import Tensor
from tests.small_models import assert_near, rounded, rounded_model

_native: Any = pytest.importorskip(
    "runtime._native", reason="the kernels are not compiled; run `pip install -e .`"
)

GGML = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
)
# those with float16 scales are multiplied as those with float32 ones (QuantType.widened)
ONNX = tuple(n for n in QUANT_TYPES if n.startswith("INT") and not n.endswith(("_F16", "_ACT")))
LAYOUTS = QUANT_TYPES | READ_ONLY
pytestmark = pytest.mark.usefixtures("native_settings")
ULP = float(np.finfo(np.float32).eps)


def row_bytes(name: str, cols: int) -> int:
    if name in GGML:
        size, width = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        return cols // size * width
    return LAYOUTS[name].row_bytes(cols)


def random_rows(name: str, rows: int, cols: int) -> np.ndarray:
    """Random bytes: every code, and scales that are huge, subnormal, infinite or NaN."""
    shape = (rows, row_bytes(name, cols))
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def tame_rows(name: str, rows: int, cols: int) -> np.ndarray:
    """Random bytes without the bits that would make a scale larger than 2."""
    return np.asarray(random_rows(name, rows, cols) & 0x3B)


def activations(count: int, cols: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, cols)).astype(np.float32)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the last bit, zero's sign included; NaNs only need to stand in the same places."""
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), ~number)
    np.testing.assert_array_equal(actual.view("u4")[number], expected.view("u4")[number])


def assert_exact(actual: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    """x @ weight.T but for what float32 rounds of the sizes that are added up."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    bound = np.abs(x) @ np.abs(weight).T
    assert actual.shape == bound.shape
    assert (np.abs(actual - x @ weight.T) <= 16 * ULP * bound).all()
    assert (bound > 0).all()


def test_every_layout_of_the_two_containers_has_a_kernel() -> None:
    assert set(GGML) | set(ONNX) | set(READ_ONLY) == set(_native.types())


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", GGML)
def test_random_bytes_decode_as_ggml_decodes_them(name: str, instructions: str) -> None:
    data = random_rows(name, 40, 512)
    with np.errstate(all="ignore"):
        expected = dequantize(data, GGMLQuantizationType[name])
    _native.set_instruction_set(instructions)
    assert_same_bits(_native.decode(name, data, 512), expected)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", sorted(set(LAYOUTS) & set(_native.types())))
def test_random_bytes_decode_as_the_definition_decodes_them(name: str, instructions: str) -> None:
    data = random_rows(name, 40, 512)
    with np.errstate(all="ignore"):
        expected = LAYOUTS[name].decode(data)
    _native.set_instruction_set(instructions)
    assert_same_bits(_native.decode(name, data, 512), expected)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("cols", [1, 7, 8, 31, 515])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_rows_of_any_length_decode(name: str, cols: int, instructions: str) -> None:
    data = random_rows(name, 3, cols)
    _native.set_instruction_set(instructions)
    assert_same_bits(_native.decode(name, data, cols), quant_type(name).decode(data))


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("name", (*GGML, *ONNX, *READ_ONLY))
def test_exact_products_agree_with_float64(
    name: str, instructions: str, exact_products: None
) -> None:
    _native.set_instruction_set(instructions)
    for rows, cols in [(1, 256), (7, 1280), (46, 2304)]:  # around the tile of 4 rows, 1024 columns
        data = tame_rows(name, rows, cols)
        weight = _native.decode(name, data, cols)
        for count in (1, 3, 40):
            x = activations(count, cols)
            assert_exact(_native.matmul(name, data, cols, x), x, weight)


@pytest.mark.parametrize("instructions", _native.instruction_sets())
@pytest.mark.parametrize("cols", [1, 7, 17, 1033])
def test_columns_that_fill_no_register_are_multiplied(
    cols: int, instructions: str, exact_products: None
) -> None:
    _native.set_instruction_set(instructions)
    weight, x = activations(5, cols), activations(3, cols)[::-1].copy()
    assert_exact(_native.matmul("F32", weight.view(np.uint8), cols, x), x, weight)


def test_more_activations_than_one_pass_takes_are_multiplied(exact_products: None) -> None:
    cols = 1 << 16  # 4 activations a pass
    weight, x = activations(5, cols), activations(9, cols)
    assert_exact(_native.matmul("F32", weight.view(np.uint8), cols, x), x, weight)


def test_no_activations_give_no_rows() -> None:
    data = tame_rows("Q4_0", 5, 64)
    assert _native.matmul("Q4_0", data, 64, activations(0, 64)).shape == (0, 5)
    assert _native.decode("Q4_0", data[:0], 64).shape == (0, 64)


@pytest.mark.parametrize("name", ["F32", "Q4_K", "INT4_32"])
@pytest.mark.parametrize("exact", [False, True])
def test_results_do_not_depend_on_the_threads(name: str, exact: bool) -> None:
    _native.set_exact(exact)
    rows, cols = 1003, 1024
    data = tame_rows(name, rows, cols)
    for count in (1, 3, 19):
        x = activations(count, cols)
        results = []
        for threads in (1, 2, 3):
            _native.set_threads(threads)
            assert _native.threads() == threads
            results.append(_native.matmul(name, data, cols, x))
            assert_same_bits(_native.decode(name, data, cols), block_decode(name, data))
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])


def block_decode(name: str, data: np.ndarray) -> np.ndarray:
    if name in GGML:
        return np.asarray(dequantize(data, GGMLQuantizationType[name]))
    return quant_type(name).decode(data)


def test_a_row_of_an_exact_batch_equals_the_row_alone(exact_products: None) -> None:
    data, x = tame_rows("Q6_K", 45, 1280), activations(41, 1280)
    together = _native.matmul("Q6_K", data, 1280, x)
    for index in (0, 1, 40):
        assert_same_bits(
            _native.matmul("Q6_K", data, 1280, x[index : index + 1])[0], together[index]
        )


def test_callers_on_several_python_threads_get_their_own_results() -> None:
    _native.set_threads(2)
    data, x = tame_rows("Q8_0", 1000, 1024), activations(8, 1024)
    expected = [_native.matmul("Q8_0", data, 1024, row[None]) for row in x]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda row: _native.matmul("Q8_0", data, 1024, row[None]), [*x] * 5))
    for index, result in enumerate(actual):
        assert_same_bits(result, expected[index % len(x)])


FORK = """
import os, numpy as np
from runtime import _native
_native.set_threads(2)
data, x = np.full((1000, 4096), 1, np.uint8), np.ones((1, 1024), np.float32)
before = _native.matmul("F32", data, 1024, x)
child = os.fork()
if child == 0:
    os._exit(0 if (_native.matmul("F32", data, 1024, x) == before).all() else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_can_use_the_kernels() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    root = Path(runtime.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_weights_in_a_read_only_map_of_a_file_are_used_as_they_lie(tmp_path: Path) -> None:
    data, x = tame_rows("Q4_0", 9, 64), activations(2, 64)
    (tmp_path / "weights").write_bytes(
        b"12345" + data.tobytes()
    )  # an odd offset: nothing is aligned
    mapped = np.memmap(tmp_path / "weights", np.uint8, "r", offset=5, shape=data.shape)
    expected = _native.matmul("Q4_0", data, 64, x)
    assert_same_bits(_native.matmul("Q4_0", mapped, 64, x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Q9_9", (4, 18), 32, 32), "no native kernel for Q9_9; known: F32, "),
        (("Q4_0", (4, 18), 33, 33), "Q4_0 packs 32 weights at a time, which 33 columns do not"),
        (("Q4_0", (4, 18), 0, 0), "which 0 columns do not fill"),
        (("Q4_0", (4, 17), 32, 32), "32 columns of Q4_0 take 18 bytes a row, but the rows have 17"),
        (("Q4_0", (4, 18), 32, 31), "weight has 32 columns, but the activations have 31"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(
    arguments: tuple[str, tuple[int, int], int, int], message: str
) -> None:
    name, shape, cols, width = arguments
    with pytest.raises(EdgequantError, match=message):
        _native.matmul(name, np.zeros(shape, np.uint8), cols, np.zeros((1, width), np.float32))


def test_arrays_of_another_kind_are_refused_rather_than_converted() -> None:
    data, x = np.zeros((4, 18), np.uint8), np.zeros((1, 32), np.float32)
    with pytest.raises(TypeError):
        _native.matmul("Q4_0", data, 32, x.astype(np.float64))
    with pytest.raises(TypeError):
        _native.matmul("Q4_0", data.astype(np.int32), 32, x)
    with pytest.raises(TypeError):
        _native.decode("Q4_0", np.zeros((4, 36), np.uint8)[:, ::2], 32)


def test_fewer_than_one_thread_is_refused(tiny: Checkpoint) -> None:
    with pytest.raises(EdgequantError, match="threads must be a whole number from 1 .* not 0"):
        open_engine(tiny.model(), "native", threads=0)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(EdgequantError, match="no instruction set mmx; known: baseline"):
        _native.set_instruction_set("mmx")


def test_a_missing_extension_is_reported_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runtime.backends.native", raising=False)
    monkeypatch.setitem(sys.modules, "runtime._native", None)
    monkeypatch.delattr(runtime, "_native")
    with pytest.raises(EdgequantError, match="not compiled; run `pip install -e .`"):
        importlib.import_module("runtime.backends.native")


PROMPTS = np.random.default_rng(3).integers(0, 4096, (3, 21))


@pytest.fixture(scope="module", params=["F32", "BF16", "INT4_32"])
def engines(request: pytest.FixtureRequest, tiny: Checkpoint) -> tuple[OpsEngine, OpsEngine]:
    """The bundled model on the kernels, exactly, and on numpy."""
    model = rounded_model(tiny, request.param)
    native, plain = open_engine(model, "native", kv="f32"), open_engine(model, "numpy")
    assert isinstance(native, OpsEngine)
    assert isinstance(plain, OpsEngine)
    return native, plain


def test_logits_agree_with_numpy(
    engines: tuple[OpsEngine, OpsEngine], exact_products: None
) -> None:
    native, plain = engines
    assert_near(native.logits(PROMPTS), plain.logits(PROMPTS))


def test_steps_with_a_cache_agree_with_the_whole_prompt(
    engines: tuple[OpsEngine, OpsEngine], exact_products: None
) -> None:
    native, _ = engines
    whole = native.logits(PROMPTS)
    cache = native.new_cache(3, PROMPTS.shape[1])
    parts = [native.logits(PROMPTS[:, :9], cache)]
    parts += [native.logits(PROMPTS[:, at : at + 1], cache) for at in range(9, PROMPTS.shape[1])]
    assert_near(np.concatenate(parts, axis=1), whole)


def test_greedy_tokens_agree_with_numpy(tiny: Checkpoint, exact_products: None) -> None:
    prompt = PROMPTS[0].tolist()
    native, plain = (
        list(generate(open_engine(tiny.model(), backend), prompt, 8))
        for backend in ("native", "numpy")
    )
    assert native == plain


def test_a_layout_without_a_kernel_is_decoded_by_its_definition(
    tiny: Checkpoint, exact_products: None
) -> None:
    model = rounded_model(tiny, "INT4_64")
    qtype = type(quant_type("INT4_64"))()
    qtype.name = "UNHEARD_OF"  # type: ignore[misc]
    renamed = {
        name: Tensor(name, t.shape, qtype if len(t.shape) == 2 else t.qtype, t.data)
        for name, t in model.tensors.items()
    }
    expected = open_engine(model, "native").logits(PROMPTS)
    actual = open_engine(Model(model.arch, renamed), "native").logits(PROMPTS)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("option", [{"resident": True}, {"purpose": "generation"}])
def test_weights_in_memory_give_the_logits_of_the_file(
    option: dict[str, Any], tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write(path, tiny.arch, rounded(tiny, "Q4_K"), tiny.folder, {})
    model = open_gguf(path)
    mapped = open_engine(model, "native")
    assert mapped.mapped > 0
    (tmp_path / "enabled").write_text("always [madvise] never")
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(memory, "available", lambda: 2 * mapped.mapped)
    resident = open_engine(model, "native", **option)
    cache = resident.new_cache(3, 21)
    first = resident.logits(PROMPTS[:, :9], cache)
    assert resident.moving
    resident.moving.join()
    assert resident.mapped == 0
    assert not any(mapping_of(weight.data) for weight in resident.weights.values())
    rest = resident.logits(PROMPTS[:, 9:], cache)
    np.testing.assert_array_equal(np.concatenate([first, rest], 1), mapped.logits(PROMPTS))
