"""Kills and faults cost nothing: a few trials of each kind; `make trust` makes many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.kill_cases import KINDS
from tests.trust.kill_launch import Disturbance, Watch
from tests.trust.kill_mount import SMALL_DISK
from tests.trust.kill_power import cut

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.mark.slow
def test_a_disturbed_run_ends_as_an_undisturbed_one() -> None:
    command = [sys.executable, "-m", "tests.trust.kill_all", "--trials", "20", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["kind"] for row in rows} >= KINDS.keys() - {SMALL_DISK}
    assert {row["plan"] for row in rows} == {"gguf", "calibrated", "overwritten"}
    assert sum(row["runs"] for row in rows) > len(rows)  # something was resumed


def written(folder: Path, journal: Path, synced: bool) -> None:
    """In a fork: a file that is written, synced or not, and takes the place of another."""
    if os.fork() == 0:
        Watch(Disturbance("kill"), journal).install()
        with (folder / "new").open("wb") as file:
            file.write(b"new content")
            if synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(folder / "new", folder / "name")
        if synced:
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
        os._exit(0)
    assert os.wait()[1] == 0


@pytest.mark.parametrize("loss", ["empty", "half", "names"])
def test_the_harness_loses_what_was_not_synced_and_nothing_else(loss: str, tmp_path: Path) -> None:
    for synced in (False, True):
        folder, journal = tmp_path / str(synced), tmp_path / f"{synced}.journal"
        folder.mkdir()
        (folder / "name").write_bytes(b"old content")
        written(folder, journal, synced)
        lost = cut(journal, folder, loss)
        if synced:
            assert lost == 0
            assert (folder / "name").read_bytes() == b"new content"
        else:
            assert lost == (1 if loss == "names" else 2)
            assert (folder / "name").read_bytes() == b"old content"
            assert (folder / "new").read_bytes() != b"new content" or loss == "names"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_the_harness_kills_before_the_operation_that_was_asked_for(at: int, tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        Watch(Disturbance("kill", at), tmp_path / "journal").install()
        for name in "abc":
            (tmp_path / name).mkdir()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
    assert sorted(path.name for path in tmp_path.glob("?")) == list("abc")[: at - 1]
