"""Killed at any moment, a run goes on and writes the same bytes; changed, it starts afresh."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calib_data import CalibrationError
from quantize.calibration.stream import OriginalLayers
from quantize.plan import Plan
from quantize.run import pipeline
from quantize.run.resume import AFRESH, DAMAGED, Work
from quantize.run.store import work_path
from quantize.run.version import code_version
from runtime.backends.torch import TorchOps
from runtime.errors import EdgequantError
from tests.quantize.runs import small_plan

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class Stop(Exception):
    """Stands for a crash inside the process."""


def run(plan: Plan, stop_before: str = "") -> list[str]:
    """Run a plan; what was said, but for notes on readers of an ONNX folder.

    With `stop_before` a crash when that stage begins.
    """
    said: list[str] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stop_before and stage.startswith(stop_before):
            raise Stop

    pipeline.run(plan, progress, said.append)
    return [line for line in said if not line.startswith("onnx: ")]


def stop_while_tidying_up(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a plan to its end, and crash before the first file of its work folder is removed."""

    def stopped(work: Work) -> None:
        if work.stages:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Work, "clear", stopped)
        with pytest.raises(Stop):
            run(plan)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def plan(random_models: dict[str, Path], tmp_path: Path) -> Plan:
    return small_plan(
        random_models["qwen2-untied"], "onnx:int4", check=False, output=str(tmp_path / "out")
    )


def changed(plan: Plan, **changes: Any) -> Plan:
    return small_plan(
        Path(str(plan.model)), "onnx:int4", check=False, output=str(plan.output), **changes
    )


def test_a_finished_run_leaves_nothing_but_the_artifact(plan: Plan) -> None:
    assert run(plan) == []
    assert [path.name for path in plan.output.iterdir()] == ["qwen2-untied-int4-onnx"]


@pytest.mark.parametrize("stage", ["layers", "output.weight", "writing"])
def test_a_stopped_run_goes_on_and_writes_the_same_bytes(
    stage: str, plan: Plan, tmp_path: Path
) -> None:
    whole = changed(plan)
    run(whole)
    expected = files(plan.output)
    other = small_plan(
        Path(str(plan.model)), "onnx:int4", check=False, output=str(tmp_path / "stopped")
    )
    with pytest.raises(Stop):
        run(other, stop_before=stage)
    said = run(other)
    assert len(said) == 1
    assert said[0].startswith("continuing after ")
    assert files(other.output) == expected


def test_gradients_and_types_of_a_stopped_automatic_run_are_kept(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_models["qwen2-tied"]
    whole, other = (
        small_plan(
            model, "gguf:auto", target_bpw=5.5, effort="high", check=False, output=str(tmp_path / n)
        )
        for n in ("whole", "stopped")
    )
    run(whole)
    with pytest.raises(Stop):
        run(other, stop_before="layers")
    monkeypatch.setattr("quantize.calibration.sensitivity.fisher", None)  # nobody may call it
    assert run(other)[0].startswith("continuing after ")
    assert files(other.output) == files(whole.output)


def test_an_automatic_run_killed_while_it_tidied_up_ends_well(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(
        random_models["qwen2-tied"], "gguf:auto", target_bpw=6, check=False, output=str(tmp_path)
    )

    stop_while_tidying_up(plan, monkeypatch)
    written = files(tmp_path)
    expected = {name: text for name, text in written.items() if not name.startswith(".edgequant")}
    assert sorted(expected) == ["qwen2-tied-auto.Modelfile", "qwen2-tied-auto.gguf"]
    # what `clear` had already removed
    (tmp_path / ".edgequant" / "calibration.npz").unlink()
    (tmp_path / ".edgequant" / "statistics.npz").unlink()
    assert run(plan)[0].startswith("continuing after ")
    assert files(tmp_path) == expected


@pytest.mark.slow
def test_a_refused_run_killed_while_it_tidied_up_can_be_run_again(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"max_kl": 1e-9, "eval_rows": 2, "eval_length": 64}
    plan = small_plan(random_models["qwen2-tied"], "gguf:Q4_0", output=str(tmp_path), **limits)

    stop_while_tidying_up(plan, monkeypatch)
    rejected = (tmp_path / "qwen2-tied-Q4_0.gguf.rejected").read_bytes()
    (tmp_path / ".edgequant" / "calibration.npz").unlink()  # what `clear` had already removed
    (tmp_path / ".README.md.x.part").write_text("a killed attempt to write the card")
    run(plan)
    assert (tmp_path / "qwen2-tied-Q4_0.gguf.rejected").read_bytes() == rejected
    assert not (tmp_path / ".README.md.x.part").exists()


def test_work_of_finished_stages_is_not_done_again(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="writing")
    monkeypatch.setattr(OriginalLayers, "layer", None)  # nobody may call them
    monkeypatch.setattr(TorchOps, "rmsnorm", None)
    run(plan)
    assert (plan.output / "qwen2-untied-int4-onnx" / "model.onnx").exists()


def test_a_changed_plan_starts_afresh_and_says_so(plan: Plan) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="output.weight")
    assert run(changed(plan, damp=0.05)) == [f"--damp was 0.01 and is 0.05 {AFRESH}"]


def test_a_changed_model_or_program_starts_afresh_and_says_so(
    plan: Plan, random_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="output.weight")
    other = small_plan(
        random_models["qwen2-tied"], "onnx:int4", check=False, output=str(plan.output)
    )
    with pytest.raises(Stop):
        run(other, stop_before="writing")
    monkeypatch.setattr("quantize.__version__", "99")
    assert run(other) == [f"the program is another one {AFRESH}"]


def test_the_code_version_follows_source_and_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [code_version()]
    assert found == [code_version()]
    kernels = tmp_path / "_native.so"
    kernels.write_bytes(b"other kernels")
    spec = SimpleNamespace(origin=str(kernels))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    found.append(code_version())
    (tmp_path / "__init__.py").write_text("other = 1\n", encoding="utf-8")
    monkeypatch.setattr("calib_data.__file__", str(tmp_path / "__init__.py"))
    found.append(code_version())
    assert len(set(found)) == 3


def test_an_existing_output_does_not_cost_the_work_of_another_plan(plan: Plan) -> None:
    run(plan)
    other = changed(plan, damp=0.05, overwrite=True)
    with pytest.raises(Stop):
        run(other, stop_before="output.weight")
    manifest = (plan.output / ".edgequant" / "manifest.json").read_bytes()
    with pytest.raises(EdgequantError, match="exists; use --overwrite"):
        run(plan)
    assert (plan.output / ".edgequant" / "manifest.json").read_bytes() == manifest
    assert run(other)[0].startswith("continuing after ")


def test_leftovers_of_a_killed_write_are_removed(plan: Plan) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="writing")
    name = "qwen2-untied-int4-onnx"
    for left in (f".{name}.abc.part", f".{name}.abc.old"):
        (plan.output / left).mkdir()
        (plan.output / left / "model.onnx").write_bytes(b"half")
    (plan.output / f".{name}.file.part").write_bytes(b"half")
    (plan.output / ".other.abc.part").write_bytes(b"not ours")
    run(plan)
    assert {path.name for path in plan.output.iterdir()} == {name, ".other.abc.part"}


def test_a_locked_folder_is_refused(plan: Plan) -> None:
    with (
        Work(work_path(plan.output), {}).locked(),
        pytest.raises(EdgequantError, match="another run is working in .*; wait for it, or"),
    ):
        run(plan)


def test_a_damaged_manifest_starts_afresh(plan: Plan) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="output.weight")
    (plan.output / ".edgequant" / "manifest.json").write_text('{"key": ')
    assert run(plan) == [DAMAGED]


def test_a_missing_work_file_is_one_sentence(plan: Plan) -> None:
    with pytest.raises(Stop):
        run(plan, stop_before="writing")
    (plan.output / ".edgequant" / "onnx-int4" / "blk.1.npz").unlink()
    with pytest.raises(EdgequantError, match=r"blk.1.npz in .* is missing or damaged; delete that"):
        run(plan)


def test_a_cut_work_file_is_one_sentence(tmp_path: Path) -> None:
    work = Work(tmp_path, {"model": {"name": "key"}})
    work.save("some", {"weight": np.zeros(500)})
    path = tmp_path / "some.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EdgequantError, match="some.npz in .* is missing or damaged"):
        work.load("some", "weight")
    with pytest.raises(EdgequantError, match="hidden.npy in .* is missing or damaged"):
        work.open_array("hidden")


def test_a_failure_before_the_first_stage_leaves_no_trace(plan: Plan) -> None:
    with pytest.raises(CalibrationError, match="no calibration text notes.txt"):
        run(changed(plan, calibration="notes.txt"))
    assert not plan.output.exists()


def test_a_full_disk_is_one_sentence_and_the_work_is_kept(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    with pytest.raises(Stop):
        run(plan, stop_before="layers")
    stages = json.loads((plan.output / ".edgequant" / "manifest.json").read_text())["stages"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(EdgequantError, match=r"cannot store .*blk.* free some space and run"):
            run(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = json.loads((plan.output / ".edgequant" / "manifest.json").read_text())["stages"]
    assert stages.keys() <= kept.keys()
    assert run(plan)[0].startswith("continuing after ")


def test_room_for_states_is_claimed_before_it_is_mapped(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    work = Work(tmp_path, {"model": {"name": "key"}})
    assert not isinstance(work.allocate("states", (4, 8), max_ram=1), np.memmap)
    mapped = work.allocate("states", (4, 8), max_ram=0)
    assert isinstance(mapped, np.memmap)
    assert (tmp_path / "states.npy").stat().st_blocks > 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(EdgequantError, match="cannot store large.npy in"):
            work.allocate("large", (100, 100), max_ram=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [{"to": ["onnx:int4", "onnx:int8"]}, {"to": ["gguf:auto", "onnx:auto"], "target_bpw": 6}],
    ids=["presets", "automatic"],
)
def test_killed_at_any_moment_a_run_goes_on_and_writes_the_same_bytes(
    flags: dict[str, Any], plan: Plan, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl", reason="this system cannot fork")
    command = [sys.executable, "-m", "tests.quantize.killed", str(plan.model), str(tmp_path / "k")]
    command.append(json.dumps(flags))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    moments = json.loads(done.stdout)
    assert len(moments) >= 8
    assert all(moment["killed"] and moment["same"] for moment in moments), moments
    assert {moment["left"] for moment in moments} == {""}


INTERRUPTED = "interrupted; run the same command again to go on after the last finished stage."


def test_ctrl_c_at_any_moment_exits_with_130_and_the_same_command_writes_the_same_bytes(
    plan: Plan, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl", reason="this system cannot fork")
    command = [sys.executable, "-m", "tests.quantize.interrupted", str(plan.model)]
    command.append(str(tmp_path / "interrupted"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    moments = json.loads(done.stdout)
    assert len(moments) >= 12
    for moment in moments:
        assert (moment["code"], moment["same"]) == (130, True), moment
        assert moment["said"].endswith(f"{INTERRUPTED}\n"), moment
        assert "Traceback" not in moment["said"], moment


IMPORTING = """
import signal, sys

class Presses:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(Presses)
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Presses)
from quantize.cli import main
sys.argv[1:] = ["run", "--to", "onnx:int4"]
main()
"""
"""The program, with Ctrl-C when MODULE is imported."""


@pytest.mark.parametrize(
    "module", ["typer", "rich", "quantize.plan", "torch", "quantize.run.pipeline"]
)
def test_ctrl_c_while_a_module_is_imported_exits_with_130(module: str) -> None:
    command = [sys.executable, "-c", f"MODULE = {module!r}\n{IMPORTING}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{INTERRUPTED}\n")


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(plan: Plan) -> None:
    command = [sys.executable, "-m", "quantize.cli", "run", str(plan.model), "--to", "onnx:int4"]
    command += ["--no-check", "--calib-rows", "128", "--calib-length", "256", "--effort", "high"]
    command += ["-o", str(plan.output)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # tests beside each other run in processes that ignore it, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("calibration text: 1/1"):  # nearly all of the work is left
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert rest.strip().endswith(INTERRUPTED)
    assert "Traceback" not in rest
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "continuing after" in again.stderr
