"""Gates: each one lets a good result pass and stops a bad one with its own sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.report.gate import Gates, integrity_failures, read_baseline, regressions
from quantize.report.report import ArtifactResult, Report, WindowScore
from quantize.report.tokens import TokenizerCheck
from runtime.errors import EdgequantError


@pytest.fixture
def result(report: Report) -> ArtifactResult:
    metrics = replace(report.results[0].metrics, kl=0.02, top1=0.9, ppl_ratio=1.05)
    return replace(report.results[0], metrics=metrics)


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
    ],
)
def test_a_limit_stops_only_what_is_beyond_it(loose, tight, words, result) -> None:
    assert loose.failures(result) == []
    (line,) = tight.failures(result)
    assert words in line


def test_no_gate_stops_nothing(result: ArtifactResult) -> None:
    assert Gates().failures(result) == []


def scores(kl: list[float], top1: float = 0.9, nll: float = 3.0) -> tuple[WindowScore, ...]:
    return tuple(WindowScore("prose", value, top1, 3.0, nll) for value in kl)


BEFORE = [0.010, 0.030, 0.012, 0.020]


def test_windows_are_compared_in_pairs_with_the_baseline() -> None:
    # 5% worse in every window is far less than the spread between windows, and is still seen
    assert regressions(scores([kl * 1.05 for kl in BEFORE]), scores(BEFORE)) == [
        "mean KL 0.01890 is worse than the baseline's 0.01800"
    ]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.015])
def test_equal_better_and_slightly_worse_pass_the_baseline(factor: float) -> None:
    assert regressions(scores([kl * factor for kl in BEFORE]), scores(BEFORE)) == []


def test_a_difference_within_its_own_noise_passes_the_baseline() -> None:
    now = [0.016, 0.026, 0.017, 0.016]  # 4% worse on average, up and down by window
    assert regressions(scores(now), scores(BEFORE)) == []


def test_top1_and_perplexity_are_compared_with_the_baseline() -> None:
    lines = regressions(scores(BEFORE, top1=0.89, nll=3.01), scores(BEFORE))
    assert lines == [
        "top-1 agreement 0.8900 is worse than the baseline's 0.9000",
        "perplexity ratio 1.0101 is worse than the baseline's 1.0000",
    ]


def test_broken_tensors_logits_and_tokenizers_always_fail(result: ArtifactResult) -> None:
    assert integrity_failures(result, ()) == []
    check = TokenizerCheck(3, ("x",), ("y",), (), ())
    lines = integrity_failures(
        replace(result, broken_tokens=2, tokenizer=check), ("blk.0 holds 3 NaN",)
    )
    assert lines[0] == "blk.0 holds 3 NaN"
    assert "NaN or infinite logits for 2 of 384 tokens" in lines[1]
    assert "gives other ids than the original's for 1 of 3 texts, such as 'x'" in lines[2]
    assert "does not give back 1 of 3 texts, such as 'y'" in lines[3]
    assert integrity_failures(replace(result, tokenizer=None), ()) == ["it has no tokenizer"]


def saved(path: Path, report: Report, **changes) -> Path:
    path.write_text(replace(report, **changes).text(), encoding="utf-8")
    return path


def test_a_baseline_is_found_by_label_or_file_name(report: Report, tmp_path: Path) -> None:
    (only,) = report.results
    run = replace(only, label="onnx:int4")
    path = saved(tmp_path / "r.json", report, results=(run,))
    for names in ({"onnx:int4"}, {only.file}):
        found = read_baseline(path, report.original, report.evaluation, [names])
        assert Gates(baseline=found).failures(only) == []


def test_a_baseline_stops_a_worse_result(report: Report) -> None:
    (only,) = report.results
    better = tuple(replace(w, kl=w.kl / 2) for w in only.windows)
    baseline = replace(report, results=(replace(only, windows=better),))
    (line,) = Gates(baseline=baseline).failures(only)
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
