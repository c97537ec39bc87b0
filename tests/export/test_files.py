import errno
import os
from pathlib import Path

import pytest

from export.files import new_file, new_folder
from runtime.errors import EdgequantError, SpaceError


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    with new_file(target) as temp:
        temp.write_bytes(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [target]


def test_file_follows_the_umask(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as temp:
        temp.write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("maker", [new_file, new_folder])
def test_failure_leaves_nothing(maker, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), maker(tmp_path / "a") as temp:
        if temp.is_dir():
            (temp / "part").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("maker", [new_file, new_folder])
def test_existing_target_is_refused(maker, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(EdgequantError, match="already exists"), maker(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert (tmp_path / "a").read_text() == "old"


def test_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(EdgequantError, match="already exists"),
        new_file(tmp_path / "a") as temp,
    ):
        temp.write_text("new")
        (tmp_path / "a").write_text("other")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["other"]


def test_overwrite_replaces_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "stale").write_text("old")
    with new_file(tmp_path / "f", overwrite=True) as temp:
        temp.write_text("new")
    with new_folder(tmp_path / "d", overwrite=True) as temp:
        (temp / "fresh").write_text("new")
    assert (tmp_path / "f").read_text() == "new"
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["fresh"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "f"]


@pytest.mark.parametrize("maker", [new_file, new_folder])
def test_too_little_room_is_told_before_work(maker, tmp_path: Path) -> None:
    with (
        pytest.raises(EdgequantError, match=rf"a needs {1 << 60:,} bytes .* bytes free"),
        maker(tmp_path / "a", needed=1 << 60),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("maker", [new_file, new_folder])
def test_full_disk_is_one_sentence_and_leaves_nothing(maker, tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match="no room for"), maker(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EdgequantError, match="nowhere does not exist"),
        new_file(tmp_path / "nowhere" / "a"),
    ):
        pytest.fail("the block must not run")


def test_a_file_that_is_too_large_for_its_place_is_a_sentence(tmp_path: Path) -> None:
    told = r"x is larger than its disk or the limit .* allows; write to another"
    with pytest.raises(SpaceError, match=told), new_file(tmp_path / "x"):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("maker", [new_file, new_folder])
def test_a_disk_that_is_full_from_the_start_is_a_sentence(
    maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(SpaceError, match="no room for"), maker(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []
