"""Importance matrices against transformers, and in llama.cpp itself."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import calib_data
from quantize.calibration.imatrix import Imatrix, read
from quantize.calibration.make_imatrix import ImatrixRequest, make
from quantize.checkpoint import bundled, open_checkpoint
from runtime.quant_types import QUANT_TYPES
from tests.conftest import CONFIGS

ROWS, LENGTH = 4, 96
Floats = ctypes.POINTER(ctypes.c_float)


def inputs_in_transformers(folder: Path, ids: np.ndarray) -> dict[str, torch.Tensor]:
    """Weight by its name in the checkpoint -> mean squared input, from a hook on each linear."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    means: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Callable[[Any, Any], None]:
        def hook(_module: Any, inputs: Any) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            means[f"{name}.weight"] = x.square().mean(0)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(listen(name))
    with torch.no_grad():
        model(torch.from_numpy(ids.astype(np.int64)))
    return means


@pytest.mark.parametrize("name", ["bundled", *CONFIGS])
def test_means_equal_those_of_hooks_in_transformers(
    name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = bundled() if name == "bundled" else random_models[name]
    checkpoint = open_checkpoint(folder)
    make(ImatrixRequest(tmp_path / "a.gguf", str(folder), rows=ROWS, length=LENGTH))
    ids = calib_data.load("builtin", checkpoint.tokenizer, ROWS, LENGTH).ids
    expected = inputs_in_transformers(folder, ids)
    found = read(tmp_path / "a.gguf").means
    heads = {checkpoint.arch.head: "lm_head.weight"}
    hf_names = checkpoint.arch.hf_names()
    hf_names = {weight: heads.get(weight, hf_names.get(weight)) for weight in found}
    assert set(hf_names.values()) == expected.keys()
    for weight, mean in found.items():
        np.testing.assert_allclose(mean, expected[hf_names[weight]].numpy(), rtol=1e-4)


class GgufSettings(ctypes.Structure):
    """gguf_init_params: whether to leave the data out, and where to put the tensors."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("tensors", ctypes.POINTER(ctypes.c_void_p)))


SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gguf_init_from_file": (ctypes.c_void_p, (ctypes.c_char_p, GgufSettings)),
    "gguf_free": (None, (ctypes.c_void_p,)),
    "gguf_find_key": (ctypes.c_int64, (ctypes.c_void_p, ctypes.c_char_p)),
    "gguf_get_val_u32": (ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_int64)),
    "gguf_get_val_str": (ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_int64)),
    "gguf_get_arr_n": (ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_int64)),
    "gguf_get_arr_str": (ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t)),
    "gguf_get_n_tensors": (ctypes.c_int64, (ctypes.c_void_p,)),
    "ggml_free": (None, (ctypes.c_void_p,)),
    "ggml_get_tensor": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "ggml_nelements": (ctypes.c_int64, (ctypes.c_void_p,)),
    "ggml_get_data_f32": (Floats, (ctypes.c_void_p,)),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        (ctypes.c_int, Floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, Floats),
    ),
}


@pytest.fixture(scope="module")
def ggml() -> Any:
    """llama.cpp's library, with the functions that its imatrix reader and quantizer are made of."""
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
    )
    (path,) = Path(str(xllamacpp.__file__)).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix of the bundled model."""
    path = tmp_path_factory.mktemp("imatrix") / "a.gguf"
    make(ImatrixRequest(path, rows=8, length=128))
    return path


class Loaded:
    """A file as llama.cpp's own reader holds it."""

    def __init__(self, ggml: Any, path: Path) -> None:
        self.ggml, self.context = ggml, ctypes.c_void_p()
        settings = GgufSettings(False, ctypes.pointer(self.context))
        self.file = ggml.gguf_init_from_file(str(path).encode(), settings)
        assert self.file

    def key(self, name: str) -> int:
        """Index of a metadata key; -1 where there is none."""
        return int(self.ggml.gguf_find_key(self.file, name.encode()))

    def values(self, name: str) -> np.ndarray:
        """A tensor's data."""
        tensor = self.ggml.ggml_get_tensor(self.context, name.encode())
        assert tensor, name
        count = self.ggml.ggml_nelements(tensor)
        return np.ctypeslib.as_array(self.ggml.ggml_get_data_f32(tensor), (count,)).copy()


@pytest.fixture
def loaded(ggml: Any, written: Path) -> Iterator[Loaded]:
    file = Loaded(ggml, written)
    yield file
    ggml.gguf_free(file.file)
    ggml.ggml_free(file.context)


def test_llamacpp_reads_our_metadata_and_sums(loaded: Loaded, written: Path) -> None:
    ggml, file, ours = loaded.ggml, loaded.file, read(written)
    assert ggml.gguf_get_val_str(file, loaded.key("general.type")) == b"imatrix"
    datasets = loaded.key("imatrix.datasets")
    assert ggml.gguf_get_arr_n(file, datasets) == 1
    assert ggml.gguf_get_arr_str(file, datasets, 0) == b"builtin"
    assert ggml.gguf_get_val_u32(file, loaded.key("imatrix.chunk_count")) == 8
    assert ggml.gguf_get_val_u32(file, loaded.key("imatrix.chunk_size")) == 128
    assert ggml.gguf_get_n_tensors(file) == 2 * len(ours.means)
    for weight, mean in ours.means.items():
        count = loaded.values(f"{weight}.counts")
        assert count.tolist() == [8 * 128]
        assert np.array_equal(loaded.values(f"{weight}.in_sum2") / count, mean)


def errors(ggml: Any, kind: str, ours: Imatrix, weigh: bool) -> dict[str, float]:
    """Weight -> squared error of the outputs after llama.cpp's quantizer, inputs uncorrelated."""
    qtype, found = QUANT_TYPES[kind], {}
    tensors = open_checkpoint(bundled()).tensors
    for weight, mean in ours.means.items():
        w = np.ascontiguousarray(tensors[weight].decode())
        out = np.zeros((len(w), qtype.row_bytes(w.shape[1])), np.uint8)
        importance = mean.ctypes.data_as(Floats) if weigh else None
        source = w.ctypes.data_as(Floats)
        ggml.ggml_quantize_chunk(qtype.ggml_type, source, out.ctypes.data, 0, *w.shape, importance)
        found[weight] = float((((qtype.decode(out) - w) ** 2) @ mean).sum())
    return found


@pytest.mark.parametrize("kind", ["Q4_K", "Q3_K", "Q4_0"])
def test_llamacpps_quantizer_makes_smaller_errors_with_our_means(
    kind: str, ggml: Any, written: Path
) -> None:
    ours = read(written)
    plain, weighed = (errors(ggml, kind, ours, weigh) for weigh in (False, True))
    assert all(weighed[weight] < plain[weight] for weight in ours.means)
    assert sum(weighed.values()) < 0.97 * sum(plain.values())
