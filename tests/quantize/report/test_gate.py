"""Gates: each one lets a good result pass and stops a bad one with its own sentence."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from quantize.report.baseline import read_baseline
from quantize.report.checks import failures, sound
from quantize.report.gate import Gates, integrity_checks
from quantize.report.report import ArtifactResult, GateValues, Report
from quantize.report.tokens import TokenizerCheck
from runtime.errors import EdgequantError


@pytest.fixture
def result(report: Report) -> ArtifactResult:
    figures = {"kl": 0.02, "top1": 0.9, "ppl_ratio": 1.05, "kl_p99": 0.3, "kl_p999": 0.7}
    metrics = replace(report.results[0].metrics, **figures)
    return replace(report.results[0], metrics=metrics)


def told(gates: Gates, result: ArtifactResult) -> list[str]:
    return list(failures(gates.checks(result)))


@pytest.mark.parametrize(
    ("loose", "tight", "words"),
    [
        (Gates(max_kl=0.02), Gates(max_kl=0.0199), "mean KL 0.02000 is above the limit of 0.0199"),
        (Gates(min_top1=0.9), Gates(min_top1=0.901), "top-1 agreement 0.9000 is below the limit"),
        (
            Gates(max_ppl_ratio=1.05),
            Gates(max_ppl_ratio=1.04),
            "perplexity ratio 1.0500 is above the limit of 1.04",
        ),
        (Gates(max_kl_p99=0.3), Gates(max_kl_p99=0.2), "99% KL 0.30000 is above the limit of 0.2"),
        (Gates(max_kl_p999=0.7), Gates(max_kl_p999=0.6), "99.9% KL 0.70000 is above the limit"),
        (
            Gates(max_flipped=0.11),
            Gates(max_flipped=0.09),
            "share of flipped top tokens 0.1000 is above the limit of 0.09",
        ),
    ],
)
def test_a_limit_stops_only_what_is_beyond_it(loose, tight, words, result) -> None:
    (held,) = loose.checks(result)
    assert (held.state, held.told, held.asked) == ("passed", (), True)
    (broken,) = tight.checks(result)
    assert broken.state == "failed"
    assert words in broken.told[0]


def test_no_gate_stops_nothing(result: ArtifactResult) -> None:
    assert Gates().checks(result) == []


def test_a_report_tells_of_every_limit_that_was_asked_for() -> None:
    names = [field.name for field in fields(GateValues) if field.name != "baseline"]
    gates = Gates(**dict.fromkeys(names, 0.5), baseline_file="r.json")
    assert asdict(gates.values()) == dict.fromkeys(names, 0.5) | {"baseline": "r.json"}


def test_broken_tensors_logits_and_tokenizers_always_fail(result: ArtifactResult) -> None:
    assert failures(integrity_checks(result, ())) == ()
    check = TokenizerCheck(3, ("x",), ("y",), (), ())
    lines = failures(
        integrity_checks(
            replace(result, broken_tokens=2, tokenizer=check),
            (sound("tensors", ["blk.0 holds 3 NaN"]),),
        )
    )
    assert lines[0] == "blk.0 holds 3 NaN"
    assert "NaN or infinite logits for 2 of 384 tokens" in lines[1]
    assert "gives other ids than the original's for 1 of 3 texts, such as 'x'" in lines[2]
    assert "does not give back 1 of 3 texts, such as 'y'" in lines[3]
    nothing = integrity_checks(replace(result, tokenizer=None), ())
    assert failures(nothing) == ("it has no tokenizer",)


def saved(path: Path, report: Report, **changes) -> Path:
    path.write_text(replace(report, **changes).text(), encoding="utf-8")
    return path


def test_a_baseline_is_found_by_label_or_file_name(report: Report, tmp_path: Path) -> None:
    (only,) = report.results
    run = replace(only, label="onnx:int4")
    path = saved(tmp_path / "r.json", report, results=(run,))
    for names in ({"onnx:int4"}, {only.file}):
        found = read_baseline(path, report.original, report.evaluation, [names])
        assert told(Gates(baseline=found), only) == []


def test_a_baseline_stops_a_worse_result(report: Report) -> None:
    (only,) = report.results
    better = tuple(replace(w, kl=w.kl / 2) for w in only.windows)
    baseline = replace(report, results=(replace(only, windows=better),))
    line = told(Gates(baseline=baseline), only)[0]
    assert "is worse than the baseline's" in line


def test_a_baseline_about_something_else_is_refused(report: Report, tmp_path: Path) -> None:
    original, evaluation = report.original, report.evaluation
    path = saved(tmp_path / "r.json", report)
    with pytest.raises(EdgequantError, match="was made from another model"):
        read_baseline(path, replace(original, fingerprint="0" * 64), evaluation, [{"x"}])
    with pytest.raises(EdgequantError, match="was measured on other text .* use the same --eval"):
        read_baseline(path, original, replace(evaluation, sha256="0" * 64), [{"x"}])
    with pytest.raises(EdgequantError, match="has no result for x; it has small-int4"):
        read_baseline(path, original, evaluation, [{"x"}])


def test_an_unreadable_baseline_is_refused(report: Report, tmp_path: Path) -> None:
    def read(values: str) -> None:
        (tmp_path / "r.json").write_text(values)
        read_baseline(tmp_path / "r.json", report.original, report.evaluation, [{"x"}])

    with pytest.raises(EdgequantError, match="is not valid JSON"):
        read("{")
    with pytest.raises(EdgequantError, match="schema version 99, and this program reads 1"):
        read(json.dumps(report.to_json() | {"schema_version": 99}))
    with pytest.raises(EdgequantError, match="schema version None"):
        read("[]")
    with pytest.raises(EdgequantError, match="missing required field `version`"):
        read('{"schema_version": 1}')
