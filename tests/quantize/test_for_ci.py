"""What a system reads that checks every change: exit codes, JUnit XML, GitHub's annotations."""

import json
import xml.etree.ElementTree as Xml
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgequant
from quantize.checkpoint import bundled
from quantize.loading import open_model
from quantize.report import for_ci
from quantize.report.checks import Check
from quantize.report.report import Report, read_report
from runtime.errors import InputError
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint

TEXT = ("--eval-rows", "4", "--eval-length", "32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model and its artifact, with its report."""
    place = tmp_path_factory.mktemp("ci")
    random_checkpoint(place / "model", config("qwen2-tied"), bundled())
    text = {"eval_rows": 4, "eval_length": 32}
    edgequant.quantize(place / "model", "gguf:Q8_0", place / "dist", method="rtn", **text)
    return place


@pytest.fixture
def arguments(made: Path, tmp_path: Path) -> list[Any]:
    """A check of a copy of the artifact."""
    (copy := tmp_path / "model-Q8_0.gguf").write_bytes(
        (made / "dist" / "model-Q8_0.gguf").read_bytes()
    )
    return ["check", copy, "--against", made / "model", *TEXT]


@pytest.fixture(scope="module")
def report(made: Path) -> Report:
    return read_report(made / "dist" / "report.json")


def test_the_same_file_passes_its_own_baseline(run: Any, arguments: Any, made: Path) -> None:
    gates = ["--baseline", made / "dist" / "report.json", "--max-kl-increase", "1%"]
    code, out, err = run(*arguments, *gates, "--max-kl-p999", 9, "--max-flipped", 1, "--json")
    assert code == 0, err
    checks = {check["name"]: check for check in json.loads(out)["results"][0]["checks"]}
    assert checks["baseline tensors"]["value"] == 1
    assert checks["max-kl-increase"]["limit"] == 0.01
    asked = {name for name in checks if checks[name]["asked"]}
    gates_asked = {"baseline kl", "baseline top1", "baseline ppl-ratio", "max-kl-increase"}
    assert asked == {"max-kl-p999", "max-flipped", *gates_asked}
    assert {"tensors", "rounding", "statements", "hashes", "logits", "tokenizer"} < set(checks)
    assert all(checks[name]["state"] == "passed" for name in asked)


def test_one_changed_code_names_its_tensor(run: Any, arguments: Any, made: Path) -> None:
    name = "blk.1.ffn_down.weight"
    stored = open_model(arguments[1]).tensors[name].data.tobytes()
    whole = bytearray(arguments[1].read_bytes())
    at = whole.index(stored) + 2  # the first code of the first block, behind its scale
    whole[at] ^= 1
    arguments[1].write_bytes(whole)
    code, _, err = run(*arguments, "--baseline", made / "dist" / "report.json")
    assert code == 1
    (line,) = [line for line in err.splitlines() if "times the rounding error" in line]
    assert line.startswith(f"gate failed model-Q8_0.gguf: {name} has 1.0")
    assert "KL" not in err.split("gate failed", 1)[1]  # no mean tells


@pytest.mark.slow
def test_a_gate_that_cannot_be_measured_exits_with_4(
    run: Any, arguments: Any, made: Path, tmp_path: Path
) -> None:
    names = [made / "dist" / "report.json", tmp_path / "other.json"]
    names[1].write_text(names[0].read_text().replace("Q8_0.gguf", "Q6_K.gguf"))
    junit = tmp_path / "checks.xml"
    two = [*arguments[:-4], "--eval-rows", "2", "--eval-length", "32", "--report", tmp_path / "r"]
    assert run(*two)[0] == 0
    (tmp_path / "out.json").write_text((tmp_path / "r" / "report.json").read_text())
    again = [*two[:-1], tmp_path / "again", "--baseline", tmp_path / "out.json", "--junit", junit]
    code, _, err = run(*again)
    assert code == 4
    assert (
        "gate open model-Q8_0.gguf: --baseline was not measured: in all there are 2 windows" in err
    )
    assert arguments[1].exists()
    (case,) = Xml.parse(junit).getroot().iterfind(".//testcase[@name='baseline']")
    assert "2 windows" in case.find("error").get("message")  # type: ignore[union-attr]
    assert "not measured" in (tmp_path / "again" / "report.html").read_text()


def test_a_failed_gate_is_in_junit_and_annotated(
    run: Any, arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junit = tmp_path / "checks.xml"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, _, err = run(*arguments, "--max-kl", "0", "--max-kl-p99", "9", "--junit", junit)
    assert code == 1
    root = Xml.parse(junit).getroot()
    (suite,) = root
    assert (root.tag, suite.get("name"), suite.get("failures")) == (
        "testsuites", "model-Q8_0.gguf", "1",
    )  # fmt: skip
    cases = {case.get("name"): case for case in suite}
    assert len(cases) == len(suite) == int(suite.get("tests", 0))
    assert "above the limit of 0" in cases["max-kl"].find("failure").get("message")  # type: ignore[union-attr,arg-type,operator]
    assert cases["max-kl-p99"].find("failure") is None
    (line,) = [line for line in err.splitlines() if line.startswith("::")]
    where = f"{arguments[1]}.rejected"
    assert line.startswith(f"::error file={where},title=model-Q8_0.gguf max-kl failed::mean KL 0.")


def test_an_artifact_that_cannot_be_renamed_keeps_its_verdict(
    run: Any, arguments: Any, tmp_path: Path
) -> None:
    # with ".rejected" behind it the name is longer than a file system takes
    long = arguments[1].rename(tmp_path / f"{'x' * 245}.gguf")
    arguments[1] = long
    code, out, err = run(*arguments, "--max-kl", "0", "--report", tmp_path / "r")
    assert code == 1
    assert "gate failed" in err and "is above the limit of 0" in err
    assert "keeps its name, though it failed: " in out
    assert long.exists()
    (result,) = read_report(tmp_path / "r" / "report.json").results
    assert (result.rejected, result.file) == (True, long.name)


def test_a_companion_that_cannot_be_renamed_is_told(
    run: Any, arguments: Any, made: Path, tmp_path: Path
) -> None:
    beside = tmp_path / "model-Q8_0.Modelfile"
    beside.write_text((made / "dist" / beside.name).read_text())
    (tmp_path / "model-Q8_0.Modelfile.rejected" / "mine").mkdir(parents=True)
    code, out, _ = run(*arguments, "--max-kl", "0", "--report", tmp_path / "r")
    assert code == 1
    assert "model-Q8_0.Modelfile keeps its name: " in out
    (result,) = read_report(tmp_path / "r" / "report.json").results
    assert result.file == "model-Q8_0.gguf.rejected"
    assert (tmp_path / result.file).exists()


def changed(report: Report, *checks: Check, label: str = "a") -> Report:
    result = replace(report.results[0], label=label, file="a.gguf", checks=checks)
    return replace(report, results=(result,))


def test_xml_holds_whatever_a_sentence_says(report: Report) -> None:
    told = "a <tensor> & \"its\" ']]>' \x00\x0b\x1b\ufffe\udc80 é 語\nnext"
    check = Check("max-kl", "failed", 0.5, 0.1, (told, "second"), asked=True)
    root = Xml.fromstring(for_ci.junit(changed(report, check, label="x\x01<y>")))
    (case,) = root.iterfind(".//testcase")
    failure = case.find("failure")
    assert failure is not None
    assert failure.text == f"{failure.get('message')}\nsecond"
    assert "a <tensor> & \"its\" ']]>' \\x00\\x0b\\x1b\ufffd\\udc80 é 語\\nnext" in failure.text
    assert case.findtext("system-out") == "value 0.5, limit 0.1"


def test_states_are_counted_as_junit_has_them(report: Report) -> None:
    checks = (
        Check("tensors", "passed"),
        Check("hashes", "not measured", told=("none",)),
        Check("max-kl", "failed", 1, 0, ("high",), asked=True),
        Check("baseline", "not measured", told=("few",), asked=True),
    )
    (suite,) = Xml.fromstring(for_ci.junit(changed(report, *checks)))
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["4", "1", "1", "1"]


def test_annotations_are_escaped_as_github_reads_them(report: Report) -> None:
    check = Check("max-kl", "failed", 1, 0, ("5% worse:\r\na, b",), asked=True)
    (line,) = for_ci.annotations(changed(report, check, label="gguf:Q4, 1%"), Path("a,b:c"))
    assert line == (
        "::error file=a%2Cb%3Ac/a.gguf,title=gguf%3AQ4%2C 1%25 max-kl failed::5%25 worse:%0D%0Aa, b"
    )
    silent = changed(report, Check("hashes", "not measured", told=("none",)), Check("a", "passed"))
    assert for_ci.annotations(silent, Path()) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-kl-increase", "10%"], "--max-kl-increase is measured from an earlier report; add"),
        (["--max-kl-increase", "ten"], "--max-kl-increase must be a share like 10% or 0.1"),
        (["--max-flipped", "2"], "--max-flipped must be at least 0 and at most 1, not 2.0."),
        (["--junit", "none/a.xml"], "none does not exist; make the folder first."),
    ],
)
def test_a_gate_that_makes_no_sense_exits_with_2(
    flags: list[str], told: str, run: Any, arguments: Any
) -> None:
    code, _, err = run(*arguments, *flags)
    assert code == 2
    assert told in err


def test_a_file_that_is_no_junit_is_not_overwritten(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for_ci.check_path(path)
    for_ci.write(report, path)
    for_ci.check_path(path)  # ours may be replaced
    path.write_text("<mine/>")
    with pytest.raises(InputError, match="was not written by edgequant, so it is not overwritten"):
        for_ci.check_path(path)
    with pytest.raises(InputError, match="is a folder; name a file with --junit"):
        for_ci.check_path(tmp_path)


def test_python_raises_for_a_gate_that_is_open(made: Path, report: Report, tmp_path: Path) -> None:
    other = replace(report.results[0], label="another", file="another.gguf")
    path = tmp_path / "report.json"
    path.write_text(replace(report, results=(other,)).text())
    two = [made / "dist" / "model-Q8_0.gguf", tmp_path / "another.gguf"]
    two[1].write_bytes(two[0].read_bytes())
    text: Any = {"eval_rows": 4, "eval_length": 32, "baseline": path}
    with pytest.raises(edgequant.GateError, match="--baseline was not measured: not in the") as e:
        edgequant.check(two, made / "model", **text)
    assert len(e.value.failures) == 1
    assert e.value.result.failures == []
