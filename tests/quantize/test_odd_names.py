"""Names with spaces, quotes and what a shell reads: in files, in the model card, in commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgequant
from quantize.calibration import imatrix
from quantize.checkpoint import bundled
from quantize.report import render
from runtime import shell
from runtime.checkpoint import hub_id, model_name
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NAMES = ['my "model": it\'s $HOME & `co` | é#', "-o=x --to"]


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_card_run_whatever_the_model_is_called(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / name, tmp_path / f"out of {name}"
    random_checkpoint(source, SIZES | CONFIGS["qwen2-tied"], bundled())
    edgequant.quantize(
        source, ["gguf:Q8_0", "onnx:int8"], out, method="rtn", eval_rows=1, eval_length=64
    )
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in card
    assert render.code(name) in card
    program = f'quantize() {{ {shlex.quote(sys.executable)} -m quantize.cli "$@"; }}\n'
    settings = os.environ | {"PYTHONPATH": str(ROOT)}
    made = [path.name for path in out.iterdir() if path.suffix == ".gguf" or path.is_dir()]
    found = []
    for lines in blocks(card, "sh"):
        subprocess.run(["bash", "-n"], input=lines.encode(), check=True)
        (generate,) = [line for line in lines.splitlines() if line.startswith("quantize ")]
        found.append(shlex.split(generate)[2].removeprefix("./"))
        called = subprocess.run(
            ["bash", "-c", f"{program}{generate} -n 1"], cwd=out, env=settings, capture_output=True
        )
        assert called.returncode == 0, called.stderr.decode()
        if create := re.search(r"^ollama create [a-z0-9][a-z0-9._-]* -f .*", lines, re.MULTILINE):
            text = (out / shlex.split(create[0])[-1]).read_text(encoding="utf-8")
            (file,) = re.findall(r"^FROM (.*)$", text, re.MULTILINE)
            assert (out / file).is_file()
    assert sorted(found) == sorted(made)
    assert "\nollama create " in card
    (python,) = blocks(card, "python")
    literal = re.search(r"og\.Model\((.*)\)", python)
    assert literal is not None and eval(literal[1]) in made
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "&#34;model&#34;" in page or name == NAMES[1]


@pytest.mark.parametrize("name", [*NAMES, "plain-Q4_0.gguf", "new\nline", "a'b"])
def test_a_path_is_one_word_that_no_program_takes_for_an_option(name: str) -> None:
    (word,) = shlex.split(shell.word(name))
    assert not word.startswith("-")
    assert Path(word) == Path(name)
    lines = subprocess.run(
        ["bash", "-c", f"printf %s {shell.word(name)}"], capture_output=True, check=True
    )
    assert lines.stdout.decode() == word


@pytest.mark.parametrize("name", NAMES)
def test_a_command_in_a_message_can_be_run(name: str) -> None:
    with pytest.raises(edgequant.InputError) as caught:
        imatrix.read(name)
    command = str(caught.value).partition("make one with `")[2].removesuffix("`.")
    *_, option, path = shlex.split(command)
    assert (option, Path(path)) == ("-o", Path(name))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "`plain`"),
        ("a `b` c", "`` a `b` c ``"),
        ("``", "``` `` ```"),
        ("a|b", "`a\\|b`"),
        ("a\nb", "`a↵b`"),
    ],
)
def test_code_in_markdown_holds_any_text(text: str, shown: str) -> None:
    assert render.code(text) == shown


def hub_folder(root: Path, repository: str) -> Path:
    folder = root / "hub" / f"models--{repository}" / "snapshots" / ("0123456789abcdef" * 2)
    folder.mkdir(parents=True)
    return folder


def test_only_a_model_of_the_hub_has_a_hub_id(tmp_path: Path) -> None:
    snapshot = hub_folder(tmp_path, "Acme--Tiny-Qwen")
    assert hub_id(snapshot) == "Acme/Tiny-Qwen"
    assert hub_id(hub_folder(tmp_path, "gpt2")) == "gpt2"
    (tmp_path / "link").symlink_to(snapshot)
    assert (model_name(tmp_path / "link"), hub_id((tmp_path / "link").resolve())) == (
        "link",
        "Acme/Tiny-Qwen",
    )
    (tmp_path / "models--Acme--Tiny-Qwen").mkdir()
    assert hub_id(tmp_path / "models--Acme--Tiny-Qwen") is None


@pytest.mark.slow
def test_the_card_names_the_base_model_of_the_hub(tmp_path: Path) -> None:
    snapshot = hub_folder(tmp_path, "Acme--Tiny-Qwen")
    random_checkpoint(tmp_path / "plain", SIZES | CONFIGS["qwen2-tied"], bundled())
    shutil.copytree(tmp_path / "plain", snapshot, dirs_exist_ok=True)
    edgequant.quantize(
        snapshot, "gguf:Q8_0", tmp_path / "out", method="rtn", eval_rows=1, eval_length=64
    )
    front = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    (line,) = [line for line in front.splitlines() if line.startswith("base_model: ")]
    assert json.loads(line.removeprefix("base_model: ")) == "Acme/Tiny-Qwen"
