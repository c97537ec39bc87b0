"""A folder that is overwritten is there at every moment, old or new, and whole."""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from export import exchange
from export.files import new_folder, remove_parts
from tests.quantize.killed import counted

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

OLD, NEW = ["old", "old", "old"], ["new", "new"]
CALLS = ("open", "rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "chmod")
"""Functions of `os` that work on files."""


def old_folder(path: Path) -> Path:
    """An artifact of three files."""
    path.mkdir(parents=True)
    for name in "abc":
        (path / name).write_text("old")
    return path


def overwrite(path: Path, able: bool, kill_at: int = 0) -> list[Any] | None:
    """Overwrite it in a fork; what it was before each call, None of one that was killed."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        moments: list[Any] = []

        def look() -> None:
            there = path.exists()
            moments.append(sorted(one.read_text() for one in path.iterdir()) if there else None)
            if len(moments) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), look))
        one_step = counted(exchange.exchange, look)
        exchange.exchange = one_step if able else lambda one, other: False
        with new_folder(path, overwrite=True) as temp:
            for name in "ab":
                (temp / name).write_text("new")
        look()
        os.write(writer, json.dumps(moments).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
    return None if killed else json.loads(text)


@pytest.fixture
def able(tmp_path: Path) -> None:
    """Skip where names cannot be exchanged."""
    for name in "xy":
        (tmp_path / name).mkdir()
    if not exchange.exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("this system cannot exchange names")


def test_at_no_operation_is_the_name_absent(able: None, tmp_path: Path) -> None:
    moments = overwrite(old_folder(tmp_path / "out" / "model"), able=True)
    assert moments is not None
    assert len(moments) > 10
    assert [seen for seen in moments if seen not in (OLD, NEW)] == []
    assert moments[0] == OLD
    assert moments[-1] == NEW
    assert os.listdir(tmp_path / "out") == ["model"]


@pytest.mark.parametrize("can", [True, False])
def test_a_kill_at_any_operation_leaves_old_or_new(
    can: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if can:
        request.getfixturevalue("able")
    moments = overwrite(old_folder(tmp_path / "whole" / "model"), can)
    assert moments is not None
    absent = 0
    for at in range(1, len(moments)):
        path = old_folder(tmp_path / str(at) / "model")
        assert overwrite(path, can, kill_at=at) is None
        absent += not path.exists()
        remove_parts(path)
        assert sorted(file.read_text() for file in path.iterdir()) in (OLD, NEW)
        assert os.listdir(path.parent) == ["model"]
    assert absent == (0 if can else 1)  # between the two renames


def test_a_link_to_a_folder_is_replaced_and_its_folder_kept(tmp_path: Path) -> None:
    there = old_folder(tmp_path / "there")
    (tmp_path / "model").symlink_to(there)
    with new_folder(tmp_path / "model", overwrite=True) as temp:
        (temp / "a").write_text("new")
    assert not (tmp_path / "model").is_symlink()
    assert len(os.listdir(there)) == 3
    assert sorted(os.listdir(tmp_path)) == ["model", "there"]


@pytest.mark.parametrize("failing", [1, 2])
def test_what_was_there_is_kept_when_a_rename_fails(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = old_folder(tmp_path / "model"), os.replace, 0

    def replace(one: Path, other: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= failing:
            raise OSError(errno.EIO, "no")
        real(one, other)

    monkeypatch.setattr(exchange, "exchange", lambda one, other: False)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(os, "replace", replace)
        with new_folder(path, overwrite=True) as temp:
            (temp / "a").write_text("new")
    remove_parts(path)
    assert len(os.listdir(path)) == 3
    assert os.listdir(tmp_path) == ["model"]
