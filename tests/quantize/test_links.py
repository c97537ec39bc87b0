"""Files that are links to files of other names, as a hub's cache holds them."""

import hashlib
import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from quantize.loading import open_any
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, InputError
from runtime.onnx_file import open_onnx
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint

IDS = np.arange(24)[None]
BRIEF: dict[str, Any] = {"eval_rows": 1, "eval_length": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2; beside it, in `out`, a GGUF file and an ONNX folder of it."""
    folder = tmp_path_factory.mktemp("links") / "model"
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"], bundled())
    edgequant.quantize(
        folder, ["gguf:Q8_0", "onnx:int8"], folder.parent / "out", method="rtn", check=False
    )
    return folder


@pytest.fixture
def onnx(model: Path) -> Path:
    return model.parent / "out" / "model-int8-onnx"


def snapshot(root: Path, *files: Path) -> Path:
    """Files as a hub's cache holds them: the folder with links to blobs named by their hash."""
    folder = root / "models--Acme--Tiny" / "snapshots" / ("0123456789abcdef" * 2)
    blobs = folder.parent.parent / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / digest)
        (folder / file.name).symlink_to(Path("../../blobs") / digest)
    return folder


@pytest.mark.parametrize("accuracy", [None, 0])
def test_onnxruntime_runs_a_folder_of_links(
    accuracy: int | None, onnx: Path, tmp_path: Path
) -> None:
    linked = snapshot(tmp_path, *onnx.iterdir())
    logits = [
        open_engine(folder, "onnxruntime", accuracy_level=accuracy).logits(IDS)
        for folder in (linked, onnx)
    ]
    assert np.array_equal(*logits)


def test_onnxruntime_runs_weights_that_lie_elsewhere(onnx: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(onnx, mixed)
    (tmp_path / "big disk").mkdir()
    (mixed / "model.onnx.data").rename(tmp_path / "big disk" / "weights")
    (mixed / "model.onnx.data").symlink_to(tmp_path / "big disk" / "weights")
    (tmp_path / "folder").symlink_to(mixed)
    expected = open_engine(onnx, "onnxruntime").logits(IDS)
    for folder in (mixed, tmp_path / "folder"):
        assert np.array_equal(open_engine(folder, "onnxruntime").logits(IDS), expected)


def test_a_graph_of_links_reads_nothing_outside_of_its_folder(onnx: Path, tmp_path: Path) -> None:
    linked = snapshot(tmp_path, *onnx.iterdir())
    graph = linked / "model.onnx"
    changed = graph.read_bytes().replace(b"model.onnx.data", b"../a.onnx..data")
    graph.unlink()
    graph.write_bytes(changed)
    shutil.copy(onnx / "model.onnx.data", linked.parent / "a.onnx..data")
    with pytest.raises(CorruptFileError, match="onnxruntime cannot load"):
        open_engine(linked, "onnxruntime")
    with pytest.raises(CorruptFileError, match="not inside a file beside it"):
        open_onnx(linked)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *itertools.product(
            ("checkpoint", "onnxruntime", "native"),
            ("generation_config.json", "tokenizer.json", "config.json"),
        ),
        ("onnxruntime", "model.onnx"),
    ],
)
def test_a_link_to_nothing_is_no_missing_file(
    kind: str, name: str, model: Path, onnx: Path, tmp_path: Path
) -> None:
    folder = snapshot(tmp_path, *(model if kind == "checkpoint" else onnx).iterdir())
    (folder / name).resolve().unlink()
    with pytest.raises(CorruptFileError, match=f"{name} is a link to a file that is not there"):
        if kind == "checkpoint":
            open_checkpoint(folder)
        else:
            open_any(folder, kind)
    if name == "config.json" and kind == "checkpoint":
        with pytest.raises(CorruptFileError, match=f"{name} is a link to a file that is not there"):
            open_any(folder)


@pytest.mark.slow
def test_artifacts_of_a_hubs_cache_are_called_by_its_name_and_keep_theirs(
    model: Path, onnx: Path, tmp_path: Path
) -> None:
    gguf = model.parent / "out" / "model-Q8_0.gguf"
    folder = snapshot(tmp_path / "a", *onnx.iterdir())
    file = snapshot(tmp_path / "b", gguf) / gguf.name
    for path, name in ((folder, "Tiny"), (file, gguf.name)):
        gates = {"min_top1": 1.0, "max_kl": 0.0, "max_ppl_ratio": 0.0}
        with pytest.raises(edgequant.GateError) as caught:
            edgequant.check(path, against=model, reject=True, **BRIEF, **gates)
        (result,) = caught.value.result.results
        assert (result.label, result.file) == (name, name)
        assert "keeps its name, though it failed: it lies in a hub's cache" in result.notes[-1]
        assert path.exists()


@pytest.mark.slow
def test_links_to_the_tokenizer_the_text_and_the_output(model: Path, tmp_path: Path) -> None:
    linked = snapshot(tmp_path, *model.iterdir())
    (tmp_path / "blob").write_text("A text that is long enough to be read. " * 200)
    (tmp_path / "text.txt").symlink_to(tmp_path / "blob")
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    made = edgequant.quantize(
        linked,
        ["gguf:Q4_0", "onnx:int4"],
        tmp_path / "out",
        calibration=str(tmp_path / "text.txt"),
        rows=2,
        length=64,
        **BRIEF,
    )
    assert [artifact.path.name for artifact in made.artifacts] == [
        "Tiny-Q4_0.gguf",
        "Tiny-int4-onnx",
    ]
    assert (tmp_path / "real" / "report.json").is_file()
    copied = tmp_path / "real" / "Tiny-int4-onnx" / "tokenizer.json"
    assert not copied.is_symlink() and copied.read_bytes() == (model / copied.name).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "README.md"])
def test_a_pipe_in_a_folder_is_refused_and_not_read(name: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name} is a pipe or a device; write what it gives"):
        open_checkpoint(folder)
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(InputError, match="a.gguf is a pipe or a device"):
        open_any(tmp_path / "a.gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such name")
def test_a_folder_whose_name_is_not_utf8_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m\udcff"
    shutil.copytree(model, folder)
    for opened in (open_checkpoint, open_any):
        with pytest.raises(InputError, match=r"m\\udcff' is not UTF-8; rename it"):
            opened(folder)
