"""Files that change under a run: work of other files is not gone on with, and each one is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.checkpoint import open_checkpoint
from quantize.plan import Plan
from quantize.run import pipeline
from quantize.run.inputs import Inputs, files_of
from quantize.run.job import Job
from quantize.run.resume import AFRESH
from quantize.run.store import work_path
from runtime.errors import CorruptFileError, InputError
from tests.quantize.runs import small_plan

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "chat_template.jinja": "{{ messages[0].content }} a",
    "additional_chat_templates/tool.jinja": "{{ messages[0].content }} a",
    "README.md": "---\nlicense: mit\n---\nA\n",
}
"""Files that the random checkpoint does not have, as they are at first."""


class Stop(Exception):
    """Stands for a crash inside the process."""


def begin(plan: Plan) -> str:
    """Begin a run that crashes after one more step; what was said of an unfinished one."""
    store, said = Job.resolve(plan).store, ""
    with pytest.raises(Stop), store.locked():
        said = store.begin()
        store.calibration.finish()
        raise Stop
    return said


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Plan:
    """Rounding to nearest of a checkpoint that has all kinds of small files."""
    for name, text in SMALL.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return small_plan(folder, "gguf:Q4_0", method="rtn", check=False, output=tmp_path / "out")


def flip(path: Path, at: int = -1) -> None:
    """Change a byte, and nothing that a listing of the folder shows."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_text(old: str, new: str) -> Callable[[Path], None]:
    """Another text of the same length and time."""

    def change(path: Path) -> None:
        before, text = path.stat(), path.read_text()
        assert old in text
        assert len(old) == len(new)
        path.write_text(text.replace(old, new, 1))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


CHANGES: dict[str, Callable[[Path], None]] = {
    "model-0.safetensors": flip,
    "config.json": replace_text("256", "255"),
    "chat_template.jinja": replace_text(" a", " b"),
    "additional_chat_templates/tool.jinja": replace_text(" a", " b"),
    "README.md": replace_text("mit", "MIT"),
}
"""A file of each kind -> what becomes of it."""


def spaced(path: Path) -> None:
    """Swap the white space of a JSON file for another of the same length."""
    before, text = path.stat(), path.read_text()
    at = text.index("\n")
    path.write_text(f"{text[:at]}\r{text[at + 1 :]}")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
    CHANGES[name] = spaced


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_was_replaced_since_is_named(name: str, plan: Plan) -> None:
    begin(plan)
    path = Path(str(plan.model)) / name
    before = path.stat()
    CHANGES[name](path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert f"{name} changed {AFRESH}" in begin(plan)


def test_a_file_that_came_or_went_is_named(plan: Plan) -> None:
    begin(plan)
    folder = Path(str(plan.model))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    told = f"chat_template.jinja is no longer read, chat_template.json is new {AFRESH}"
    assert told in begin(plan)


def test_a_file_that_was_only_touched_costs_nothing(plan: Plan) -> None:
    begin(plan)
    for path in Path(str(plan.model)).iterdir():
        os.utime(path)
    assert begin(plan).startswith("continuing after ")


def test_a_text_may_be_called_as_a_file_of_the_model_is(plan: Plan, tmp_path: Path) -> None:
    (Path(str(plan.model)) / "merges.txt").write_text("#version: 0.2\n")
    text = tmp_path / "merges.txt"
    text.write_text("one")
    other = replace(plan, calibration=str(text))
    begin(other)
    text.write_text("two")
    assert f"the text merges.txt changed {AFRESH}" in begin(other)


def test_another_setting_is_named_with_what_it_was(plan: Plan, tmp_path: Path) -> None:
    begin(plan)
    other = small_plan(
        Path(str(plan.model)), "gguf:Q4_1", method="rtn", check=False, output=tmp_path / "out"
    )
    assert f'--to was ["gguf:Q4_0"] and is ["gguf:Q4_1"] {AFRESH}' in begin(other)


def test_another_machine_goes_on_and_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(plan)
    monkeypatch.setattr("torch.get_num_threads", lambda: 999)
    told = begin(plan)
    assert told.startswith("continuing after ")
    assert "finished stages; the number of threads was " in told
    assert " and is 999: the last bits of its sums " in told


def test_a_file_that_changes_while_it_is_read_ends_the_run(plan: Plan) -> None:
    said: list[str] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("writing"):
            flip(Path(str(plan.model)) / "model-1.safetensors")

    with pytest.raises(InputError, match=r"model-1.safetensors of model changed while the run"):
        pipeline.run(plan, progress, said.append)
    assert not plan.output.exists()


@pytest.mark.slow
def test_every_file_that_is_opened_is_held_against_the_run(plan: Plan, tmp_path: Path) -> None:
    """The list of names in inputs.py cannot fall behind what is read."""
    command = [sys.executable, "-c", OPENED, str(plan.model), str(tmp_path / "all")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"config.json", "generation_config.json", "README.md"} <= opened
    assert opened <= files_of(open_checkpoint(plan.model)).keys()


OPENED = """
import json, os, sys
from pathlib import Path
folder, opened = Path(sys.argv[1]).resolve(), set()

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = Path(os.path.abspath(arguments[0]))
        if path.is_relative_to(folder) and path.is_file():
            opened.add(path.relative_to(folder).as_posix())

sys.addaudithook(hook)
from quantize.run import inputs, pipeline
from tests.quantize.runs import small_plan
inputs.hashes = lambda files, progress: dict.fromkeys(files, "")  # it opens whatever is listed
targets = ("gguf:Q4_0", "onnx:int4", "gptq:int4")
plan = small_plan(folder, *targets, method="rtn", check=False, output=sys.argv[2])
pipeline.run(plan)
print(json.dumps(sorted(opened)))
"""
"""A run that prints the files of the checkpoint that it opened."""


def test_every_byte_of_a_file_counts(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    shard = folder / "model-1.safetensors"
    for at in range(1, shard.stat().st_size, 20_011):
        before = Inputs(checkpoint).digests()["model-1.safetensors"]
        flip(shard, -at)
        assert Inputs(checkpoint).digests()["model-1.safetensors"] != before


KINDS = {"calibration.npz", "shared/hidden-0.npy", "gguf-Q4_0/blk.0.npz"}
"""A file of each kind that is there in the middle of a run."""


@pytest.mark.slow
def test_a_flipped_byte_of_any_work_file_is_told_by_its_name(folder: Path, tmp_path: Path) -> None:
    plan = small_plan(
        folder, "gguf:Q4_0", check=False, effort="medium", output=str(tmp_path / "out")
    )
    expected = tmp_path / "whole"
    pipeline.run(small_plan(folder, "gguf:Q4_0", check=False, effort="medium", output=expected))
    seen = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("layers"):
            raise Stop

    with pytest.raises(Stop):
        pipeline.run(plan, progress)
    work = work_path(plan.output)
    names = [path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()]
    assert set(names) >= KINDS
    for name in names:
        if name in ("lock", "manifest.json"):
            continue
        size = (work / name).stat().st_size
        for at in (size // 2, size - 1):
            flip(work / name, -at)
            try:
                pipeline.run(plan, progress)
            except CorruptFileError as error:
                assert f"{name} in {work} is missing or damaged; delete that folder" in str(error)
                seen.append(name)
            except Stop:
                pass  # nobody needed it before the next layer was there
            flip(work / name, -at)
    assert set(seen) >= {"calibration.npz", "shared/hidden-0.npy"}
