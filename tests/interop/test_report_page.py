"""Reports' pages in Chromium: what they ask for, whether they can be read there, and by whom."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from quantize.report.judge import check_files
from tests.conftest import config
from tests.interop.browser import ROOT, chromium
from tests.quantize.report.conftest import FLAGS, Steps, rounded, write_onnx
from tests.random_checkpoint import random_checkpoint
from tests.score_models import make_scorer

INSTALLED = ROOT / "build" / "node" / "report"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium here"),
    pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here"),
    pytest.mark.skipif(
        not (INSTALLED / "node_modules").exists(), reason="tests/node/report.json is not installed"
    ),
]


PAGES = ("tokens", "scores")
"""Of a model that predicts tokens, and of one that scores texts."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a rejected artifact beside the report of another one in a sibling folder, and of a
    scorer's artifact."""
    folder = tmp_path_factory.mktemp("page")
    random_checkpoint(folder / "small", config("qwen2-tied"), bundled())
    small = open_checkpoint(folder / "small")
    for name, kind, most in (
        ("a-folder-with-a-rather-long-name", "INT8_32", None),
        ("tokens", "INT4_32", 1e-6),
    ):
        file = write_onnx(folder / f"small-{kind}", small, rounded(small, kind))
        flags = FLAGS | {"max_kl": most}
        check_files([file], str(small.folder), folder / name, "native", flags, Steps())
    make_scorer(folder / "scorer", "qwen2")
    edgequant.quantize(
        str(folder / "scorer"), to="onnx:int4", output=folder / "scores", method="rtn", **FLAGS
    )
    return {name: folder / name / "report.html" for name in PAGES}


@pytest.fixture(scope="module")
def all_seen(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/node/report.mjs tells of them, in one start of the browser."""
    profile = tmp_path_factory.mktemp("profile")
    script = ROOT / "tests" / "node" / "report.mjs"
    command = ["node", script, str(chromium()), profile, *pages.values()]
    done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


@pytest.fixture
def seen(page: Path, all_seen: dict[str, Any]) -> dict[str, Any]:
    """What is told of one page."""
    return dict(all_seen[str(page)])


def test_it_asks_for_nothing_but_itself_and_complains_of_nothing(
    page: Path, seen: dict[str, Any]
) -> None:
    assert seen["requests"] == [page.as_uri()]
    assert seen["told"] == []
    assert page.stat().st_size < 2e6


def test_it_never_scrolls_sideways(seen: dict[str, Any]) -> None:
    assert seen["wide"] == dict.fromkeys(seen["wide"], 0)
    assert len(seen["wide"]) == 6


def test_axe_finds_nothing_wrong_in_light_and_dark(seen: dict[str, Any]) -> None:
    assert seen["violations"] == dict.fromkeys(seen["violations"], [])
    assert {name.split()[0] for name in seen["violations"]} == {"light", "dark"}
    assert seen["colours"]["light"] != seen["colours"]["dark"]


def test_tensors_open_with_the_keyboard_and_are_reached_next(seen: dict[str, Any]) -> None:
    assert seen["details"] > 0
    assert seen["opened"] == 1
    assert seen["next"] == "scroll"


def test_paper_is_white_and_cuts_nothing_off(seen: dict[str, Any]) -> None:
    assert seen["paper"] == {"background": "rgb(255, 255, 255)", "cut": []}
