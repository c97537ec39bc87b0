"""A stranger's file with the name of one of our packages is one clear error, whatever is run."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from edgequant._packages import PACKAGES

ROOT = Path(__file__).resolve().parent.parent.parent
USES = {
    "front": ["-c", "import edgequant; edgequant.quantize(to='gguf:Q4_0')"],
    "from": ["-c", "from edgequant import GateError"],
    "command": ["-c", "from edgequant.__main__ import main; main()", "list"],
    "module": ["-m", "edgequant", "list"],
    "inner module": ["-m", "quantize.cli", "list"],
    "inner import": ["-c", "import quantize.loading"],
}


def python(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python in a folder, which `-c` and `-m` search before the installed packages.

    Without the `site` module: an editable installation puts a finder of its own before every
    folder, which nothing hides; what users install has none.
    """
    places = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )


def strange(folder: Path, package: str, as_folder: bool) -> Path:
    """A file or package that is called like one of ours, and imports what nobody has."""
    place = folder / package if as_folder else folder / f"{package}.py"
    file = place / "__init__.py" if as_folder else place
    file.parent.mkdir(exist_ok=True)
    file.write_text("import a_module_of_a_stranger\n", encoding="utf-8")
    return place


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_that_hides_a_package_is_named_with_the_way_out(
    tmp_path: Path, package: str, use: str
) -> None:
    if package == "quantize" and use.startswith("inner"):
        return  # the stranger's file is all that Python runs
    place = strange(tmp_path, package, as_folder=use == "front")
    run = python(USES[use], tmp_path)
    sentence = (
        f"{place} hides edgequant's package {package}, which is in {ROOT}; "
        "run from another folder, or rename it."
    )
    assert run.stdout == ""
    if "-m" in USES[use] or use == "command":
        assert (run.returncode, run.stderr) == (2, f"error {sentence}\n")
    else:
        assert run.stderr.splitlines()[-1] == f"ImportError: {sentence}"
        assert run.stderr.count("Traceback") == 1


def test_a_script_that_is_called_like_a_package_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "export.py"
    script.write_text("import edgequant\nedgequant.plan(to='gguf:Q4_0')\n", encoding="utf-8")
    run = python([str(script)], tmp_path)
    assert f"ImportError: {script} hides edgequant's package export" in run.stderr


def test_a_folder_without_python_files_hides_nothing(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    run = python(["-m", "edgequant", "list", "archs"], tmp_path)
    assert run.returncode == 0, run.stderr
    assert "qwen2" in run.stdout


def test_a_missing_package_says_how_to_get_it_back(tmp_path: Path) -> None:
    (tmp_path / "edgequant").symlink_to(ROOT / "edgequant")
    program = "import sys; sys.path.remove(ROOT); sys.path.insert(0, HERE)\n"
    program += "from edgequant import _packages\n_packages.HOME = HOME\nimport edgequant\n"
    program += "edgequant.load"
    named = {"ROOT": str(ROOT), "HERE": str(tmp_path)}
    lines = "".join(f"{name} = {value!r}\n" for name, value in named.items())
    lines += "import pathlib\nHOME = pathlib.Path(HERE)\n"
    run = python(["-c", lines + program], tmp_path)
    assert run.stderr.splitlines()[-1] == (
        f"ImportError: the package runtime is not in {tmp_path}, beside edgequant; "
        "install edgequant again."
    )


def test_the_command_line_is_the_same_under_both_names() -> None:
    ours = python(["-m", "edgequant", "list", "methods", "--json"], ROOT)
    inner = python(["-m", "quantize.cli", "list", "methods", "--json"], ROOT)
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == inner.stdout
