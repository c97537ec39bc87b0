"""The public names, their settings, and the page that describes them."""

import os
import re
import subprocess
import sys
import tomllib
import typing
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

import edgequant
from edgequant import _settings
from quantize.cli.program import app

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = typing.get_type_hints(_settings.PlanSettings)
DEFAULTS = {field.name: field.default for field in fields(edgequant.Plan)}
ROW = re.compile(r"^\| `(\w+)` \| `(.+?)` \| `(--[\w-]+)` \| (\w*)", re.MULTILINE)


@pytest.mark.parametrize("name", edgequant.__all__)
def test_a_public_name_is_there_and_on_the_page(name: str) -> None:
    assert getattr(edgequant, name) is getattr(edgequant, name)
    assert name in dir(edgequant)
    assert name == "__version__" or re.search(rf"\b{name}\b", PAGE)


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'edgequant' has no attribute 'quantise'"):
        getattr(edgequant, "quantise")  # noqa: B009  a name that mypy does not know


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == edgequant.__version__


def test_the_installed_command_checks_its_packages_first() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"quantize": "edgequant.__main__:main"}


def test_settings_are_the_fields_of_a_plan_that_are_no_arguments() -> None:
    assert set(SETTINGS) == set(DEFAULTS) - {"model", "targets", "output"}


def test_the_page_has_every_setting_with_its_default_and_flag() -> None:
    rows = ROW.findall(PAGE)
    assert {name: default for name, default, _, _ in rows} == {
        name: repr(DEFAULTS[name]).replace("'", '"') for name in SETTINGS
    }
    run = typer.main.get_command(app).commands["run"]
    flags = {flag for parameter in run.params for flag in parameter.opts}
    assert {flag for _, _, flag, _ in rows} <= flags


@pytest.mark.parametrize(
    ("known", "words"),
    [(_settings.TextSettings, {"text"}), (_settings.GateSettings, {"text", "gate"})],
    ids=["text", "gate"],
)
def test_the_page_marks_what_check_and_compare_take(known: type, words: set[str]) -> None:
    marked = {name for name, _, _, word in ROW.findall(PAGE) if word in words}
    assert marked == set(typing.get_type_hints(known))


def test_the_page_names_the_engines_settings() -> None:
    names = typing.get_type_hints(_settings.EngineSettings)
    assert all(f"- `{name}`:" in PAGE for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "python.md"])
def test_the_examples_of_a_page_run_in_order(page: str, tmp_path: Path) -> None:
    program = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert "import edgequant" in program
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert run.stdout
    if page is PAGE:
        for sample in re.findall(r"print\(error.*?\)  # (.+)", page):
            expected = re.escape(sample.removesuffix("give ...")).replace(r"0\.08937", r"0\.\d+")
            assert re.search(expected, run.stdout), sample
