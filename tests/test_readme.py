"""Every command in the README works as it stands, in order, on the bundled model."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from bench import fill
from export import CONTAINERS
from quantize.cli.program import app
from quantize.methods import METHODS
from quantize.plan import Plan
from runtime.archs import FAMILIES
from runtime.engine import backend_names
from runtime.quant_types import QUANT_TYPES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\S*)( run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS_OF_CODE = [(kind, bool(run), body) for kind, run, body in BLOCK.findall(README)]
"""Language, whether it is marked `run`, and text of every fenced block."""


def commands(kind: str, body: str) -> list[tuple[str, list[str]]]:
    """Commands of a block with the sample output below each (only `console` has any)."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if kind == "sh":
            found.append((line, []))
        elif line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


ALL = [
    (command, run)
    for kind, run, body in BLOCKS_OF_CODE
    if kind in ("sh", "console")
    for command, _ in commands(kind, body)
]
NAMES = {
    "methods": list(METHODS),
    "presets": [name for container in CONTAINERS.values() for name in container.presets],
    "containers": list(CONTAINERS),
    "archs": list(FAMILIES),
    "backends": backend_names(),
    "types": [name.replace("_SYM", "").removesuffix("_ACT") for name in QUANT_TYPES],
}


def parse(words: list[str]) -> None:
    """Read a `quantize` command line without running it; raises for a flag that does not exist."""
    group = typer.main.get_command(app)
    context = group.make_context("quantize", [], resilient_parsing=True)
    group.commands[words[0]].make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize("command", [c for c, _ in ALL if c.startswith("quantize ")])
def test_a_command_of_the_readme_has_flags_that_exist(command: str) -> None:
    words = shlex.split(re.split(r" [|>]", command)[0], comments=True)
    parse(words[1:])


@pytest.mark.parametrize("command", [command for command, run in ALL if not run])
def test_only_set_up_and_hub_models_are_left_out_of_the_run(command: str) -> None:
    assert command.startswith("make ") or "Qwen/" in command


@pytest.mark.parametrize("what", NAMES)
def test_the_readme_names_everything_that_is_registered(what: str) -> None:
    words = set(re.findall(r"[\w-]+", README))
    assert not [name for name in NAMES[what] if name not in words]


def test_the_plan_of_the_readme_is_read(tmp_path: Path) -> None:
    write_plans(tmp_path)
    plan = Plan.from_flags(tmp_path / "plan.toml", {})
    assert plan.targets[0].label == "gguf:Q4_0"
    assert [rule.type_name for rule in plan.rules] == ["Q6_K", "Q5_K"]


def write_plans(folder: Path) -> None:
    """Write each TOML block under the name in its first line."""
    for kind, _, body in BLOCKS_OF_CODE:
        if kind == "toml":
            (folder / body.splitlines()[0].removeprefix("# ")).write_text(body, encoding="utf-8")


def shape(line: str) -> str:
    """A line of output without its figures, which differ between machines."""
    return " ".join(re.sub(r"\d[\d.,]*(e-?\d+)?", "#", line).split())


def entry_point(folder: Path) -> dict[str, str]:
    """An environment in which `quantize` is this project's command line, installed or not."""
    program = "import sys; sys.argv[0] = 'quantize'; from edgequant.__main__ import main; main()"
    script = folder / "quantize"
    script.write_text(
        f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", program])} "$@"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
    }


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_order(tmp_path: Path) -> None:
    work, programs = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    environment = entry_point(programs)
    write_plans(work)
    for kind, marked, body in BLOCKS_OF_CODE:
        for command, sample in commands(kind, body) if marked else []:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}"
            shown = [shape(line) for line in done.stdout.splitlines()]
            for line in sample:
                assert shape(line) in shown, f"$ {command}\n{done.stdout}\nlacks: {line}"
                shown = shown[shown.index(shape(line)) + 1 :]  # the rest comes below it


@pytest.mark.parametrize("page", fill.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_filled_page_are_those_of_the_bench(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill.TABLE.search(text)
    assert fill.filled(text) == text, "run: python bench/fill.py"


def test_filling_a_page_replaces_an_old_table_and_leaves_the_text_around_it() -> None:
    empty = "Before.\n\n<!-- table memory -->\n\nAfter.\n"
    full = fill.filled(empty)
    assert full == f"Before.\n\n<!-- table memory -->\n{fill.table('memory')}\nAfter.\n"
    assert "| 0.5B |" in full
    old = full.replace("0.5B", "7B")
    assert old != full
    assert fill.filled(old) == full


def test_a_page_has_no_table_of_what_was_never_measured() -> None:
    page = "<!-- table nothing_of_this_name -->\n\nAfter.\n"
    assert fill.filled(page) == page
