"""A GGUF as the source: transformers opens what is rebuilt of it, and llama.cpp agrees with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.report.torture import TORTURE
from quantize.run.pipeline import run
from runtime.archs import family_of
from runtime.backends.llamacpp import LlamaEngine
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from tests.conftest import CONFIGS, config
from tests.interop.test_downloaded import TEXTS, gemma3, smollm2
from tests.interop.vocabulary import tokenize
from tests.moe_models import QWEN2, QWEN3, moe
from tests.one_file_models import edit
from tests.quantize.runs import small_plan
from tests.random_checkpoint import add_arrays
from tests.small_models import kl
from tests.tokenizers_made import made

torch = pytest.importorskip("torch")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)
pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

NEAR = 2e-5
"""Of the largest logit: what the order of float32 sums leaves."""
DENSE = [name for name in CONFIGS if (kind := family_of(config(name))).architecture == kind.name]
"""Without those that pass for another family in a GGUF."""


def through_gguf(folder: Path, path: Path) -> Checkpoint:
    """A checkpoint written into a GGUF as its values are, and opened as a source."""
    meant = open_checkpoint(folder)
    tensors = meant.tensors.values()
    CONTAINERS["gguf"].write(path, meant.arch, tensors, meant.files, {})
    return open_checkpoint(path)


def as_folder(source: Checkpoint, folder: Path) -> Path:
    """A folder with the rebuilt files of a source and its weights under transformers' names."""
    shutil.copytree(source.files, folder)
    values: dict[str, torch.Tensor] = {}
    norms, names, joined = source.arch.norms(), source.arch.hf_names(), source.arch.hf_rows()
    for name, tensor in source.tensors.items():
        offset = norms[name].offset if name in norms else 0.0
        weight = torch.from_numpy(tensor.decode().reshape(tensor.shape) - np.float32(offset))
        add_arrays(values, names[name], weight, joined=name in joined)
    values = {key: array.clone() for key, array in values.items()}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_equal_logits(original: Path, rebuilt: Path) -> None:
    """As transformers computes both."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 4096, (2, 40)))
    found = []
    for folder in (original, rebuilt):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            found.append(model(ids).logits.numpy())
    assert np.abs(found[0] - found[1]).max() < NEAR * np.abs(found[0]).max()


@pytest.mark.parametrize("name", DENSE)
def test_transformers_computes_the_same_from_the_rebuilt_config(
    name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    source = through_gguf(random_models[name], tmp_path / "m.gguf")
    assert_equal_logits(random_models[name], as_folder(source, tmp_path / "rebuilt"))


@pytest.mark.parametrize("facts", [QWEN2, QWEN3], ids=["qwen2moe", "qwen3moe"])
def test_and_of_a_model_with_experts(facts: dict[str, object], tmp_path: Path) -> None:
    original = moe(tmp_path / "m", facts)
    source = through_gguf(original, tmp_path / "m.gguf")
    assert_equal_logits(original, as_folder(source, tmp_path / "rebuilt"))


@pytest.mark.parametrize("kind", ["smollm", "llama-bpe", "gpt-2", "deepseek-llm", "llama", "gemma"])
def test_transformers_cuts_texts_by_the_rebuilt_tokenizer(
    kind: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(random_models["llama-untied"], folder)
    made(kind, folder)
    (folder / "generation_config.json").unlink()
    edit(folder, "config.json", eos_token_id=...)
    source = through_gguf(folder, tmp_path / "m.gguf")
    found = transformers.AutoTokenizer.from_pretrained(source.files)
    meant = open_checkpoint(folder).tokenizer
    for text in TORTURE:
        ids = found(text, add_special_tokens=False)["input_ids"]
        assert ids == meant.encode(text), ascii(text)
    assert found.eos_token == meant.special["eos_token"]


@pytest.mark.slow
def test_a_downloaded_file_in_its_own_type_is_copied_whole(tmp_path: Path) -> None:
    path = smollm2(tmp_path)
    plan = small_plan(path, "gguf:Q4_1", method="rtn", check=False, output=tmp_path / "out")
    run(plan)
    (written,) = (tmp_path / "out").glob("*.gguf")
    ours, theirs = open_gguf(written).tensors, open_gguf(path).tensors
    assert {name: t.qtype.name for name, t in ours.items()} == {
        name: t.qtype.name for name, t in theirs.items()
    }
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name].data, tensor.data), name
    engines = [open_engine(file, "llamacpp", threads=2) for file in (written, path)]
    for text in TEXTS:
        ids = [tokenize(engine, text, add_special=True) for engine in engines]
        assert ids[0] == ids[1]
        logits = [engine.logits(np.array([ids[0]])) for engine in engines]
        assert np.array_equal(*logits)


@pytest.mark.slow
@pytest.mark.parametrize("make", [smollm2, gemma3])
def test_the_rebuilt_tokenizer_of_a_downloaded_file_is_llama_cpp_s(
    make: object, tmp_path: Path
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    source, llama = open_checkpoint(path), open_engine(path, "llamacpp", threads=2)
    assert isinstance(llama, LlamaEngine)
    found = transformers.AutoTokenizer.from_pretrained(source.files)
    for text in (*TEXTS, *TORTURE):
        meant = tokenize(llama, text, add_special=True)
        prefix = list(source.tokenizer.prefix)
        assert [*prefix, *source.tokenizer.encode(text)] == meant, ascii(text)
        assert found(text)["input_ids"] == meant, ascii(text)


@pytest.mark.slow
@pytest.mark.parametrize("make", [smollm2, gemma3])
def test_a_downloaded_file_goes_into_an_onnx_folder(make: object, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = make(tmp_path)  # type: ignore[operator]
    plan = small_plan(path, "onnx:int8", method="rtn", check=False, output=tmp_path / "out")
    run(plan)
    (folder,) = (tmp_path / "out").glob("*-onnx")
    source = open_checkpoint(path)
    engine = open_engine(folder, "onnxruntime", threads=2)
    original = open_engine(source.model(), "torch")
    for text in TEXTS:
        ids = np.array([[*source.tokenizer.prefix, *source.tokenizer.encode(text)]])
        assert kl(original.logits(ids), engine.logits(ids)) < 0.05
    assert transformers.AutoConfig.from_pretrained(folder).vocab_size == source.arch.vocab
