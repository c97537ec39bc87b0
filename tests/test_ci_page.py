"""The workflow of docs/ci.md, run as it stands: good for the good artifact, 1 for the worse one."""

import re
import subprocess
import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest

from tests.test_readme import entry_point

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def workflow() -> list[str]:
    """The commands of the workflow's steps, folded lines as YAML's `>-` joins them."""
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^ +- run: (?:>-\n)?((?:.+\n)(?: {10}.+\n)*)", yaml, re.MULTILINE)
    return [" ".join(step.split()) for step in steps]


def shell() -> list[str]:
    """The commands of the page's other blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_workflow_passes_the_good_artifact_and_fails_the_worse_one(tmp_path: Path) -> None:
    work, programs = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    environment = entry_point(programs) | {"GITHUB_ACTIONS": "true"}

    def done(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=work, env=environment, text=True, capture_output=True
        )

    baseline, worse, over_time = shell()
    assert done(baseline).returncode == 0
    install, good = workflow()
    assert install.startswith("pip install")
    ended = done(good)
    assert ended.returncode == 0, ended.stderr
    assert "::error" not in ended.stderr
    root = Xml.parse(work / "checks.xml").getroot()
    states = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert "failure" not in str(states)
    assert states["baseline tensors"] == ["system-out"]
    assert {"max-kl", "max-kl-p99", "max-flipped", "baseline on code kl"} < states.keys()
    ended = done(worse)
    assert ended.returncode == 1, ended.stderr
    failed = [line for line in ended.stderr.splitlines() if line.startswith("gate failed")]
    assert any("mean KL" in line and "worse than the baseline's" in line for line in failed)
    assert any("on code mean KL" in line for line in failed)
    assert sum(line.startswith("::error file=worse/") for line in ended.stderr.splitlines()) == len(
        failed
    )
    ended = done(over_time)
    assert ended.returncode == 0, ended.stderr
    assert "tiny-qwen2.5-Q4_K_M.gguf" in ended.stdout
    assert (work / "history.svg").stat().st_size > 1000
    assert (work / "worse" / "tiny-qwen2.5-Q4_K_M.gguf.rejected").exists()
