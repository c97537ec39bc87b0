"""The command line: exit codes, JSON, and one sentence instead of a traceback."""

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize import cli
from quantize.checkpoint import bundled
from quantize.cli import interrupt
from quantize.inspection import CATALOGUES
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded random checkpoint that a test may damage."""
    random_checkpoint(tmp_path / "model", config("qwen2-tied"), bundled())
    return tmp_path / "model"


def quick(model: Path, output: Path, *more: str) -> list[str]:
    """Arguments of a small run to ONNX without judging."""
    to = [] if "--to" in more else ["--to", "onnx:int4"]
    small = ["--calib-rows", "2", "--calib-length", "64", "--no-check", "-o", str(output)]
    return ["run", str(model), *to, *small, *more]


def test_a_run_prints_what_it_wrote(run: Any, folder: Path, tmp_path: Path) -> None:
    code, out, err = run(*quick(folder, tmp_path / "out"))
    assert code == 0
    assert out.startswith(f"{tmp_path}/out/model-int4-onnx: ")
    assert "layers (shared): 2/2" in err


def test_results_go_to_stdout_as_json_and_progress_to_stderr(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    more = ("--json", "--to", "onnx:int4", "--to", "onnx:int8", "--rule", "ffn_up=INT4_128")
    code, out, err = run(*quick(folder, tmp_path / "out", *more, "--method", "rtn"))
    assert code == 0
    found = {item["target"]: item for item in json.loads(out)["artifacts"]}
    assert found.keys() == {"onnx:int4", "onnx:int8"}
    for item in found.values():
        files = [file for file in Path(item["path"]).rglob("*") if file.is_file()]
        assert item["bytes"] == sum(file.stat().st_size for file in files)
    assert "2 tensors with rows of 96 cannot be INT4_128" in err


def cut_shard(folder: Path) -> None:
    shard = folder / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def spoil(folder: Path) -> None:
    shard = folder / "model-1.safetensors"
    tensors = load_file(shard)
    tensors["model.layers.1.mlp.down_proj.weight"][0, :3] = float("inf")
    save_file(tensors, shard)


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(values))

    return edit


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (
        shutil.rmtree,
        "does not exist; give a checkpoint folder, a GGUF file or a hub id",
    ),
    "missing shard": (
        lambda f: (f / "model-1.safetensors").unlink(),
        "is missing 1 of 4 shards (model-1.safetensors); download them again",
    ),
    "cut shard": (cut_shard, "model-1.safetensors is cut short or damaged"),
    "shape": (edit_config(intermediate_size=128), "config.json implies (128, 96)"),
    "architecture": (edit_config(model_type="mamba"), "unknown architecture 'mamba'"),
    "infinite": (spoil, "blk.1.ffn_down.weight holds 3 NaN or infinite values of 15360"),
}


def is_one_sentence(err: str) -> bool:
    """Whether the last line is an error, and nothing looks like a traceback."""
    lines = err.strip().splitlines()
    return lines[-1].startswith("error ") and "Traceback" not in err and lines[-1].endswith(".")


@pytest.mark.parametrize("what", DAMAGE)
def test_a_bad_checkpoint_exits_with_2_and_one_sentence(
    what: str, run: Any, folder: Path, tmp_path: Path
) -> None:
    damage, message = DAMAGE[what]
    damage(folder)
    code, out, err = run(*quick(folder, tmp_path / "out"))
    assert code == 2
    assert out == ""
    assert message in err
    assert is_one_sentence(err)


WRONG: dict[str, tuple[list[str], str]] = {
    "preset": (["--to", "onnx:int5"], "unknown preset 'int5' in --to onnx:int5; known for onnx:"),
    "method": (["--method", "magic"], "unknown method 'magic'; known: "),
    "rule": (["--rule", "attn_[wx]=INT8_32"], "--rule attn_[wx]=INT8_32 matches no tensor"),
    "text": (["--calib-rows", "100000"], "100000 were asked. Use --calib-rows "),
    "no text": (["--calibration", "none.txt"], "There is no calibration text none.txt: give a"),
    "device": (["--device", "abacus"], "device 'abacus' cannot be used ("),
    "plan": (["--plan", "none.toml"], "plan none.toml cannot be read: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_flag_exits_with_2_and_one_sentence(
    what: str, run: Any, folder: Path, tmp_path: Path
) -> None:
    flags, message = WRONG[what]
    code, out, err = run(*quick(folder, tmp_path / "out", *flags))
    assert code == 2
    assert out == ""
    assert message in err
    assert is_one_sentence(err)
    assert list((tmp_path / "out").glob("*")) == []


def test_square_brackets_in_an_error_are_not_taken_for_markup(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = run(*quick(Path("someone/model"), tmp_path / "out"))
    assert code == 2
    assert "pip install 'edgequant[hub]'" in err


def test_an_unknown_option_exits_with_2(run: Any) -> None:
    code, _, err = run("run", "--colour")
    assert code == 2
    assert "No such option" in err


def test_a_cuda_device_that_is_not_there_is_refused(run: Any, folder: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, err = run(*quick(folder, tmp_path / "out", "--device", "cuda"))
    assert code == 2
    assert "device 'cuda' cannot be used" in err
    assert err.strip().endswith("use --device cpu.")


@pytest.mark.parametrize("name", ["model-int4-onnx", "report.json", "README.md", "report.html"])
def test_an_existing_output_is_refused_before_any_work(
    name: str, run: Any, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    judged = ["--check", "--eval-length", "64"]
    arguments = quick(folder, tmp_path / "out", *judged)
    code, _, err = run(*arguments)
    assert code == 2
    assert f"{name} exists; use --overwrite, or another folder with -o." in err
    assert "calibration" not in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "precious"


def test_an_unchecked_run_does_not_mind_old_reports(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("precious")
    assert run(*quick(folder, tmp_path / "out", "--method", "rtn"))[0] == 0
    assert (tmp_path / "out" / "report.json").read_text() == "precious"


def test_overwrite_replaces_an_output(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "model-int4-onnx").mkdir(parents=True)
    (tmp_path / "out" / "model-int4-onnx" / "old").write_text("old")
    (tmp_path / "out" / "model-int4-onnx" / "model.onnx").write_text("of an older run")
    assert run(*quick(folder, tmp_path / "out", "--overwrite", "--method", "rtn"))[0] == 0
    assert not (tmp_path / "out" / "model-int4-onnx" / "old").exists()


def test_a_disk_without_room_is_refused_before_any_work(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, _, err = run(*quick(folder, tmp_path / "out"))
    assert code == 2
    assert re.search(r"has 1\.0 kB free and the run needs about [\d.]+ \wB; free some, or", err)


def test_a_folder_that_cannot_be_written_is_refused(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(*quick(folder, tmp_path / "file"))
    assert code == 2
    assert f"cannot write in {tmp_path}/file (" in err
    assert is_one_sentence(err)


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ctrl_c: None
) -> None:
    arguments = ["quantize", "--debug", *quick(tmp_path / "none", tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(Exception, match="does not exist"):
        cli.main()


def test_ctrl_c_is_said_and_exits_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUES, "methods", lambda: signal.raise_signal(signal.SIGINT))
    code, out, err = run("list", "methods")
    assert (code, out, err) == (130, "", "interrupted.\n")


def test_ctrl_c_is_ignored_where_the_starter_wants_it_and_after_the_work(ctrl_c: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and scripts in the background do
    interrupt.watch()
    signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.watch()
    interrupt.too_late()
    signal.raise_signal(signal.SIGINT)
    interrupt.check()


def test_a_ctrl_c_that_got_lost_is_raised_again(ctrl_c: None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.watch()
    with suppress(interrupt.Interrupted):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(interrupt.Interrupted):
        interrupt.check()


def test_version_and_help(run: Any) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("edgequant ")
    code, out, _ = run("run", "--help")
    assert code == 0
    assert "--max-ram" in out


@pytest.mark.parametrize("what", CATALOGUES)
def test_list_shows_a_table_or_json(what: str, run: Any) -> None:
    code, out, _ = run("list", what)
    assert code == 0
    shown = run("list", what, "--json")[1]
    for row in json.loads(shown):
        assert next(iter(row.values())) in out


def test_list_refuses_another_word(run: Any) -> None:
    code, _, err = run("list", "colours")
    assert code == 2
    known = "methods, rewrites, types, presets, archs, backends"
    assert f"cannot list 'colours'; choose from {known}." in err


def test_generate_streams_text_and_json_holds_the_same(run: Any) -> None:
    arguments = ("generate", bundled(), "The history of", "-n", "8", "--backend", "torch")
    code, out, _ = run(*arguments)
    assert code == 0
    assert json.loads(run(*arguments, "--json")[1]) == {
        "prompt": "The history of",
        "text": out.removesuffix("\n"),
    }


def test_generate_with_chat_opens_the_assistants_turn(run: Any) -> None:
    more = ("--chat", "--system", "Be brief.", "-n", "2", "--backend", "torch", "--json")
    code, out, _ = run("generate", bundled(), "Hi", *more)
    assert code == 0
    prompt = json.loads(out)["prompt"]
    assert "Be brief." in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_generate_refuses_an_unknown_backend(run: Any) -> None:
    code, _, err = run("generate", bundled(), "Hi", "--backend", "abacus")
    assert code == 2
    assert "unknown backend 'abacus'; known: " in err


def test_generate_refuses_what_does_not_exist(run: Any, tmp_path: Path) -> None:
    code, _, err = run("generate", tmp_path / "none.gguf", "Hi")
    assert code == 2
    assert (
        "none.gguf does not exist; give a .gguf file, an ONNX folder, a GPTQ folder, an AWQ folder"
        in err
    )


def test_plan_shows_the_forecast_and_writes_nothing(run: Any, folder: Path, tmp_path: Path) -> None:
    same_flags = quick(folder, tmp_path / "out", "--rule", "attn_[qk]=INT8_32")[1:]
    code, out, _ = run("plan", *same_flags)
    assert code == 0
    assert "onnx:int4" in out
    assert "128 calibration tokens" in out
    found = json.loads(run("plan", *same_flags, "--json")[1])
    assert found["targets"][0]["target"] == "onnx:int4"
    assert not (tmp_path / "out").exists()
