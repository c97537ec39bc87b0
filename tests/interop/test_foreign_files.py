"""Files as llama.cpp makes them: their maker, and types that are read and never written."""

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from quantize.report.comparison import compare_files
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from runtime.tensor import Tensor
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.quantize.report.conftest import Steps, rounded

xllamacpp = pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

FILE_TYPES = {"Q4_0": 2, "IQ3_S": 26}
"""llama.cpp's file types by their numbers."""
FLAGS = {"eval_rows": 4, "eval_length": 128}

container = CONTAINERS["gguf"]


def ggml_rows(weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Rows (rows, cols) float32 as ggml packs them: uint8 (rows, row_bytes)."""
    (library,) = Path(str(xllamacpp.__file__)).parent.glob("xllamacpp*.so")
    chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    chunk.restype = ctypes.c_size_t
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((len(weights), weights.shape[1] // block * size), np.uint8)
    rows, even = np.ascontiguousarray(weights), np.ones(weights.shape[1], np.float32)
    sizes = (0, *weights.shape)
    written = chunk(kind, rows.ctypes.data, out.ctypes.data, *sizes, even.ctypes.data)
    assert written == out.nbytes
    return out


def requantized(base: Path, path: Path, name: str) -> Path:
    """A file as llama.cpp's quantizer leaves it: its own types and file type, all other keys kept.

    The package that runs llama.cpp here has ggml's rounding, but not the program around it.
    """
    kind, reader = gguf.GGMLQuantizationType[name], gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_file_type(FILE_TYPES[name])
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            writer.add_tensor(tensor.name, ggml_rows(tensor.data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def files(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model in F32, our file in Q4_K, and F32 quantized again by ggml."""
    folder = tmp_path_factory.mktemp("foreign")
    paths = {kind: folder / f"{kind}.gguf" for kind in ("F32", "ours", *FILE_TYPES)}
    plain = (Tensor.dense(name, tensor.decode()) for name, tensor in tiny.tensors.items())
    container.write(paths["F32"], tiny.arch, plain, tiny.folder, {"preset": "F32"})
    ours = rounded(tiny, "Q4_K")
    container.write(paths["ours"], tiny.arch, ours, tiny.folder, {"preset": "Q4_K_M"})
    for kind in FILE_TYPES:
        requantized(paths["F32"], paths[kind], kind)
    return paths


def test_a_file_of_ours_that_llama_cpp_quantized_is_no_longer_ours(files: dict[str, Path]) -> None:
    assert {kind: container.maker(path) for kind, path in files.items()} == {
        "F32": "edgequant",
        "ours": "edgequant",
    } | dict.fromkeys(FILE_TYPES, "other")


@pytest.mark.slow
def test_files_of_llama_cpp_and_ours_are_compared(files: dict[str, Path], tiny: Checkpoint) -> None:
    chosen = [files["ours"], files["Q4_0"]]
    report = compare_files(chosen, str(tiny.folder), None, None, "native", dict(FLAGS), Steps())
    assert report.failures == []
    assert {r.label: r.maker for r in report.results} == {
        "ours.gguf": "edgequant",
        "Q4_0.gguf": "other",
    }
    assert all(r.tensors and 0 < r.metrics.kl < 0.1 for r in report.results)


@pytest.mark.slow
def test_a_file_in_a_type_that_is_only_read_is_compared(
    files: dict[str, Path], tiny: Checkpoint
) -> None:
    chosen, folder = [files["IQ3_S"], files["Q4_0"]], str(tiny.folder)
    found = {}
    for backend in ("native", "llamacpp"):
        report = compare_files(chosen, folder, None, None, backend, dict(FLAGS), Steps())
        assert report.failures == []
        narrow, wide = report.results
        assert (narrow.label, narrow.backend, narrow.maker) == ("IQ3_S.gguf", backend, "other")
        assert 0 < wide.metrics.kl < narrow.metrics.kl < 0.2
        assert {fact.type for fact in narrow.tensors} == {"IQ3_S", "F32"}
        assert 3.4 < narrow.bits_per_weight < wide.bits_per_weight
        found[backend] = narrow.metrics.kl
    assert found["native"] == pytest.approx(found["llamacpp"], rel=0.05)


def test_a_model_in_several_files_is_computed_as_llama_cpp_computes_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights = {f"blk.0.{name}.weight": rng.normal(size=(32, 32)) for name in ("attn_v", "ffn_down")}
    embedding = {"token_embd.weight": rng.normal(size=(257, 32))}
    tokens = [*bytes_alphabet(), "ab"]
    tiny_gguf(tmp_path / "m.gguf", tokens, {}, weights | embedding, most=4)
    second, ids = tmp_path / "m-00002-of-00003.gguf", np.array([[5, 70, 9, 200]])
    expected = open_engine(second, "llamacpp", threads=1).logits(ids)
    found = open_engine(open_gguf(second), "numpy").logits(ids)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
