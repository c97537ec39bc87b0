"""What ends a command: exit codes, and one sentence for what the system refuses."""

import errno
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantize.cli import program, screen

ROOT = Path(__file__).resolve().parent.parent.parent

FULL = OSError(errno.ENOSPC, "No space left on device", "a.gguf")
REFUSED: list[tuple[Exception, str]] = [
    (FULL, "the disk is full (a.gguf); free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "a.gguf"), "a.gguf may not be read or"),
    (OSError(errno.EROFS, "Read-only file system", "a.gguf"), "a.gguf may not be read or written"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "a: Is a directory; check"),
    (OSError("of a library"), "of a library"),
    (MemoryError(), "the memory is full; close other programs"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory is full"),
    (RuntimeError("CUDA out of memory. Tried to allocate"), "the memory is full"),
]


def ended(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    def broken() -> None:
        raise error

    monkeypatch.setattr(program, "app", broken)
    monkeypatch.setattr("sys.argv", ["quantize"])
    code = program.run()
    return code, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("error", "told"), REFUSED)
def test_what_the_system_refuses_is_one_sentence(
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = ended(error, monkeypatch, capsys)
    assert code == 2
    assert said.startswith(f"error {told}")


def test_an_unknown_fault_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended(ZeroDivisionError("by nothing"), monkeypatch, capsys)
    assert code == 3
    assert "fault of the program: ZeroDivisionError: by nothing" in said
    assert "report it" in said


@pytest.mark.slow
def test_a_failed_gate_exits_with_1_and_one_without_a_measurement_with_4(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    text = ("--eval-rows", "2", "--eval-length", "32")
    out = tmp_path / "out"
    made = ("run", folder, "--to", "gguf:Q8_0", "--method", "rtn", "-o", out, *text)
    assert run(*made)[0] == 0
    check = ("check", out / "model-Q8_0.gguf", "--against", folder, *text)
    baseline = ("--baseline", out / "report.json")  # two windows tell no regression from chance
    assert run(*check, "--max-kl", 9)[0] == 0
    assert run(*check, "--max-kl", 9, *baseline)[0] == 4
    assert run(*check, "--max-kl", 0, *baseline)[0] == 1
    assert not check[1].exists()


def test_the_page_has_every_exit_code() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    codes = re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)
    assert codes == [*map(str, (0, screen.FAILED, 2, 3, screen.OPEN)), "130", "141"]


@pytest.mark.slow
def test_a_reader_that_left_is_no_failed_gate() -> None:
    command = [sys.executable, "-m", "quantize.cli", "generate", "models/tiny-qwen2.5", "The"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_command_may_have_no_output() -> None:
    command = f"{sys.executable} -m quantize.cli list --json >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
