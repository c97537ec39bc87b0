"""`quantize attest` makes an artifact again and compares it byte by byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantize.checkpoint import bundled
from quantize.run.pipeline import run as make
from runtime.gguf_file import open_gguf
from tests.quantize.runs import small_plan

pytestmark = pytest.mark.slow
TARGETS = ("gguf:Q4_K_M", "gguf:Q5_K_M", "onnx:int4", "gptq:int4")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run makes."""
    folder: Path = tmp_path_factory.mktemp("made")
    make(small_plan(bundled(), *TARGETS, output=folder, check=False, rules=["attn_v=Q6_K"]))
    return folder


def gguf(folder: Path) -> Path:
    """One of the files."""
    return next(folder.glob("*Q4_K_M.gguf"))


@pytest.mark.parametrize("pattern", ("*Q5_K_M.gguf", "*onnx", "*gptq"))
def test_what_a_run_made_is_the_same_again(artifacts: Path, pattern: str, run: Any) -> None:
    code, out, err = run("attest", next(artifacts.glob(pattern)))
    assert (code, "the same bytes" in out) == (0, True), err


def test_one_changed_bit_names_its_tensor(artifacts: Path, tmp_path: Path, run: Any) -> None:
    file = Path(shutil.copy(gguf(artifacts), tmp_path))
    tensor = open_gguf(file).tensors["blk.3.ffn_up.weight"]
    content = bytearray(file.read_bytes())
    start = content.find(bytes(tensor.data[5, :144]))
    content[start + 100] ^= 1
    file.write_bytes(content)
    code, out, _ = run("attest", file, "--json")
    assert code == 1
    assert json.loads(out)["differences"] == [
        f"blk.3.ffn_up.weight differs in 1 of {tensor.data.size:,} bytes",
        f"{file.name} is another file",
    ]


def test_another_small_file_of_a_folder_is_named(artifacts: Path, tmp_path: Path, run: Any) -> None:
    folder = Path(shutil.copytree(next(artifacts.glob("*onnx")), tmp_path / "copy"))
    (folder / "generation_config.json").write_text('{"temperature": 0.1}')
    (folder / "more.txt").touch()
    code, out, _ = run("attest", folder, "--json")
    assert code == 1
    assert json.loads(out)["differences"] == [
        "generation_config.json is another file",
        "more.txt is another file",
    ]


def test_a_file_without_a_recipe_is_refused(run: Any) -> None:
    code, _, err = run("attest", bundled())
    assert code == 2
    assert "holds no recipe" in err
    assert "quantize check" in err


def test_what_convert_wrote_is_the_same_again(tmp_path: Path, run: Any) -> None:
    assert run("convert", "--to", "gguf", "-o", tmp_path)[0] == 0
    assert run("attest", next(tmp_path.glob("*.gguf")))[0] == 0


def test_a_calibration_file_is_asked_for_where_it_lies(tmp_path: Path, run: Any) -> None:
    text = tmp_path / "texts" / "own.txt"
    text.parent.mkdir()
    text.write_text("\n\n".join(f"Sentence {n} of a text of our own." for n in range(400)))
    flags = ("--to", "gguf:Q4_0", "--no-check", "--calib-rows", "4", "--calib-length", "64")
    assert run("run", *flags, "--calibration", text, "-o", tmp_path / "out")[0] == 0
    file = next((tmp_path / "out").glob("*.gguf"))
    assert run("attest", file, "--calibration", text)[0] == 0
    code, _, err = run("attest", file)
    assert (code, "own.txt" in err) == (2, True)
