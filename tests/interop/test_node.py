"""Our artifacts in Node.js: onnxruntime's two packages, transformers.js, node-llama-cpp and more.

tests/node/install.sh installs them, as `make interop` does.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.loading import open_model
from runtime.gguf_file import read
from runtime.tokenizer import Tokenizer
from tests.small_models import kl

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / "build" / "node"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here"),
]

TEXT = "The history of the city"
TEXTS = (TEXT, "def add(a, b):\n    return a + b", "naïve 日本語 12345", "<|im_start|>user\nHi")
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\nthere"}]
COUNT = 16
IDS = [375, 2032, 288, 264, 1879, 11, 293, 264]


def call(package: str, script: str, *arguments: object) -> str:
    """What a script of tests/node prints, run where its packages are."""
    folder = INSTALLED / package
    if not (folder / "node_modules").exists():
        pytest.skip(f"the packages of tests/node/{package}.json are not installed")
    shutil.copy(ROOT / "tests" / "node" / script, folder)  # Node.js looks for them beside it
    done = subprocess.run(
        ["node", script, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Target -> the bundled model in it, rounded to nearest."""
    out = tmp_path_factory.mktemp("node")
    targets = ["gguf:F32", "gguf:Q4_K_M", "onnx:fp32", "onnx:int4", "onnx-f16:int4"]
    done = edgequant.quantize(to=targets, output=out, method="rtn", check=False)
    paths = {artifact.target: artifact.path for artifact in done.artifacts}
    return lambda target: paths[target]


def logits_of(path: Path, ids: list[int]) -> np.ndarray:
    """(T, V), by the engine that Python users have."""
    return edgequant.load(path).logits(ids)


ONNX = ["onnx:fp32", "onnx:int4", "onnx-f16:int4"]


@pytest.mark.parametrize("target", ONNX)
@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_logits_are_those_of_onnxruntime_in_python(
    package: str, target: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    output = tmp_path / "logits"
    call("web", "onnxruntime.mjs", package, made(target), output, ",".join(map(str, IDS)))
    expected = logits_of(made(target), IDS)
    found = np.fromfile(output, np.float32).reshape(len(IDS) + 1, -1)
    for theirs, ours in ((found[:-1], expected), (found[-1:], expected[-1:])):
        if target == "onnx:fp32":
            assert np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max()
        else:  # activations are rounded to 8 bits, by each kernel in its way
            assert kl(ours, theirs) < 2e-3


def assert_greedy(path: Path, prompt: list[int], answer: list[int], slack: float) -> None:
    """Each token is the best one after those before it, or as good within `slack` nats."""
    logits = logits_of(path, [*prompt, *answer])[len(prompt) - 1 : -1]
    taken = logits[np.arange(len(answer)), answer]
    assert (logits.max(axis=-1) - taken).max() <= slack


@pytest.mark.parametrize("target", ONNX)
def test_transformers_js_generates_from_the_folder_as_it_is(
    target: str, made: Callable[[str], Path]
) -> None:
    path = made(target)
    arguments = (path.parent, path.name, TEXT, COUNT, json.dumps(CHAT))
    found: dict[str, Any] = json.loads(call("web", "transformers.mjs", *arguments))
    tokenizer = Tokenizer.from_folder(path)
    prompt, answer = tokenizer.encode(TEXT), found["made"][len(found["prompt"]) :]
    assert found["prompt"] == prompt
    assert len(answer) == COUNT
    assert_greedy(path, prompt, answer, 0.001 if target == "onnx:fp32" else 0.25)
    assert found["chat"] == tokenizer.render(CHAT, generate=True)
    assert found["chat_ids"] == tokenizer.encode(found["chat"])


def test_hugging_faces_reader_finds_every_key_and_tensor(made: Callable[[str], Path]) -> None:
    path = made("gguf:Q4_K_M")
    found = json.loads(call("web", "gguf.mjs", path))
    file, theirs = read(path), found["metadata"]
    counts = {"version": 3, "tensor_count": len(file.tensors), "kv_count": len(file.metadata)}
    expected = counts | file.metadata
    assert sorted(theirs) == sorted(expected)
    for key, value in expected.items():
        if isinstance(value, float):
            assert theirs[key] == pytest.approx(value, rel=1e-6), key
        else:
            assert np.array_equal(theirs[key], value), key
    assert {t["name"]: (t["dtype"], t["shape"]) for t in found["tensors"]} == {
        name: (tensor.qtype.ggml_type, list(reversed(tensor.shape)))
        for name, tensor in file.tensors.items()
    }


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its llama.cpp is for x86-64")
@pytest.mark.parametrize(("target", "slack"), [("gguf:F32", 0.01), ("gguf:Q4_K_M", 0.25)])
def test_node_llama_cpp_reads_texts_and_generates(
    target: str, slack: float, made: Callable[[str], Path]
) -> None:
    path = made(target)
    found = json.loads(call("llama", "llama.mjs", path, COUNT, json.dumps(TEXTS)))
    tokenizer = open_model(path).tokenizer
    assert tokenizer is not None
    plain_texts = [text for text in TEXTS if "<|" not in text]
    assert found["ids"][: len(plain_texts)] == [tokenizer.encode(text) for text in plain_texts]
    assert len(found["made"]) == COUNT
    assert_greedy(path, found["ids"][0], found["made"], slack)
