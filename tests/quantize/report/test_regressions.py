"""Against an earlier report: all text, each domain, each tensor."""

from dataclasses import replace

import numpy as np
import pytest

from quantize.report.baseline import increase_check, notes_on, regressions
from quantize.report.checks import Check, failures, open_questions
from quantize.report.gate import Gates
from quantize.report.report import ArtifactResult, Report, WindowScore
from quantize.report.scan import TensorFact
from quantize.report.tensor_growth import changed_types, tensor_check

BEFORE = [0.010, 0.030, 0.012, 0.020]


@pytest.fixture
def result(report: Report) -> ArtifactResult:
    return report.results[0]


def scores(
    kl: list[float], top1: float = 0.9, nll: float = 3.0, domain: str = "prose"
) -> tuple[WindowScore, ...]:
    return tuple(WindowScore(domain, value, top1, 3.0, nll) for value in kl)


def compared(
    result: ArtifactResult,
    now: tuple[WindowScore, ...],
    before: tuple[WindowScore, ...] | None = None,
    share: float | None = None,
) -> list[Check]:
    sides = [replace(result, windows=side) for side in (now, before or scores(BEFORE))]
    return regressions(sides[0], sides[1], share)


def test_windows_are_compared_in_pairs_with_the_baseline(result: ArtifactResult) -> None:
    # 5% worse in every window is far less than the spread between windows, and is still seen
    found = compared(result, scores([kl * 1.05 for kl in BEFORE]))
    assert failures(found) == ("mean KL 0.01890 is worse than the baseline's 0.01800",)
    kl = found[0]
    assert (kl.name, kl.state, kl.asked) == ("baseline kl", "failed", True)
    assert kl.value == pytest.approx(0.0189)
    assert kl.limit is not None and 0.018 * 1.02 < kl.limit < 0.0189


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.015])
def test_equal_better_and_slightly_worse_pass_the_baseline(
    factor: float, result: ArtifactResult
) -> None:
    assert failures(compared(result, scores([kl * factor for kl in BEFORE]))) == ()


def test_a_difference_within_its_own_noise_passes_the_baseline(result: ArtifactResult) -> None:
    now = [0.016, 0.026, 0.017, 0.016]  # 4% worse on average, up and down by window
    assert failures(compared(result, scores(now))) == ()


def test_what_float32_makes_of_equal_models_is_no_regression(result: ArtifactResult) -> None:
    assert failures(compared(result, scores([2e-8] * 4), scores([1e-8] * 4))) == ()


def test_top1_and_perplexity_are_compared_with_the_baseline(result: ArtifactResult) -> None:
    assert failures(compared(result, scores(BEFORE, top1=0.89, nll=3.01))) == (
        "top-1 agreement 0.8900 is worse than the baseline's 0.9000",
        "perplexity ratio 1.0101 is worse than the baseline's 1.0000",
    )


MANY = [0.010 + 0.001 * (index % 5) for index in range(40)]


def test_a_domain_is_named_whose_loss_all_text_hides(result: ArtifactResult) -> None:
    before = scores(MANY) + scores(BEFORE, domain="code")
    now = scores([kl * 0.9 for kl in MANY]) + scores([kl * 1.5 for kl in BEFORE], domain="code")
    # without more tokens that flip or lose probability
    assert failures(compared(result, now, before)) == ()
    now = scores([kl * 0.7 for kl in MANY]) + scores([kl + 0.008 for kl in BEFORE], domain="code")
    found = compared(result, now, before)
    assert failures(found) == ("on code mean KL 0.02600 is worse than the baseline's 0.01800",)
    states = {check.name: check.state for check in found}
    assert states["baseline kl"] == states["baseline on prose kl"] == "passed"
    assert states["baseline on code kl"] == "failed"


def test_a_domain_of_few_windows_is_not_measured_and_it_is_said(result: ArtifactResult) -> None:
    before = scores(MANY) + scores([0.01, 0.02], domain="math")
    now = scores(MANY) + scores([0.09, 0.08], domain="math")
    found = [check for check in compared(result, now, before) if "math" in check.name]
    (math,) = found
    assert math.state == "not measured"
    assert "on math there are 2 windows, and it takes 3" in math.told[0]
    assert not math.asked and open_questions(found) == ()
    (note,) = notes_on(found)
    assert note.startswith("too few windows to tell whether it got worse than the baseline on math")


def test_a_baseline_of_two_windows_leaves_the_gate_open(result: ArtifactResult) -> None:
    found = compared(result, scores([0.01, 0.01]), scores([0.01, 0.01]))
    (line,) = open_questions(found)
    assert line.startswith("--baseline was not measured: in all there are 2 windows")


def test_an_increase_that_is_allowed_passes_and_another_does_not(report: Report) -> None:
    (only,) = report.results
    worse = replace(
        only,
        metrics=replace(only.metrics, kl=only.metrics.kl * 1.08),
        windows=tuple(replace(w, kl=w.kl * 1.08) for w in only.windows),
    )
    strict = Gates(baseline=report, baseline_file="r.json")
    assert "mean KL" in failures(strict.checks(worse))[0]
    assert failures(replace(strict, max_kl_increase=0.1).checks(worse)) == ()
    found = failures(replace(strict, max_kl_increase=0.05).checks(worse))
    assert "is 8.0% above the baseline's" in found[-1]
    assert "the limit is 5.0%" in found[-1]
    check = increase_check(worse, only, 0.05)
    assert check.value == pytest.approx(0.08)


def test_what_the_baseline_does_not_have_leaves_its_gates_open(report: Report) -> None:
    other = replace(report.results[0], label="another", file="another.gguf")
    found = Gates(baseline=report, baseline_file="r.json", max_kl_increase=0.1).checks(other)
    assert [check.state for check in found] == ["not measured", "not measured"]
    assert open_questions(found) == (
        "--baseline was not measured: not in the baseline r.json, so not compared with it",
        "--max-kl-increase was not measured: not in the baseline r.json, so not compared with it",
    )


def test_a_baseline_that_had_failed_is_told(report: Report) -> None:
    (only,) = report.results
    failed = replace(report, results=(replace(only, failures=("it is bad",)),))
    (note,) = Gates(baseline=failed, baseline_file="r.json").notes(only)
    assert note == "its result in the baseline r.json had failed there"


def facts(errors: list[float], kind: str = "Q4_0") -> tuple[TensorFact, ...]:
    return tuple(
        TensorFact(f"blk.{index}.ffn_up.weight", (64, 64), kind, 2304, 0, error)
        for index, error in enumerate(errors)
    )


ERRORS = [0.0021, 0.0023, 0.0022, 0.0025, 0.0020]


def test_the_same_errors_pass_and_the_least_growth_of_one_is_named() -> None:
    before = facts(ERRORS)
    assert tensor_check(facts([e * (1 + 1e-14) for e in ERRORS]), before).state == "passed"
    grown = tensor_check(facts([*ERRORS[:3], ERRORS[3] * 1.0000084, ERRORS[4]]), before)
    assert grown.state == "failed"
    assert grown.told == (
        "blk.3.ffn_up.weight has 1.0000084 times the rounding error that it has in the baseline, "
        "in the same type",
    )


def test_rounding_anew_is_no_damage_and_damage_beside_it_is() -> None:
    before = facts(ERRORS)
    anew = np.array(ERRORS) * [1.003, 0.998, 1.004, 0.997, 1.008]
    assert tensor_check(facts(list(anew)), before).state == "passed"
    anew[2] *= 1.2
    assert "blk.2.ffn_up.weight" in tensor_check(facts(list(anew)), before).told[0]


def test_errors_of_another_recipe_are_not_compared_and_it_is_said() -> None:
    other = np.array(ERRORS) * [1.3, 1.28, 1.33, 0.8, 15]
    found = tensor_check(facts(list(other)), facts(ERRORS))
    assert found.state == "not measured"
    assert "is 30% off the baseline's, which is another recipe's" in found.told[0]
    assert notes_on([found]) == found.told


def test_a_weight_that_was_exact_must_stay_so() -> None:
    before = facts([0.0, 0.0, 0.0], "F32")
    (line,) = tensor_check(facts([0.0, 1e-9, 0.0], "F32"), before).told
    assert line.startswith("blk.1.ffn_up.weight has 10000 times")
    assert tensor_check(facts([0.0, 1e-15, 0.0], "F32"), before).state == "passed"


def test_a_norm_of_a_new_recipe_is_not_compared() -> None:
    norm = TensorFact("blk.0.attn_norm.weight", (64,), "F32", 256, 0, 1e-4)
    anew = facts([e * 1.01 for e in ERRORS])
    assert tensor_check((*anew, replace(norm, error=4e-4)), (*facts(ERRORS), norm)).told == ()
    same = tensor_check((*facts(ERRORS), replace(norm, error=4e-4)), (*facts(ERRORS), norm))
    assert "blk.0.attn_norm.weight has 4 times" in same.told[0]


def test_a_changed_type_is_a_note_and_not_compared() -> None:
    before, now = facts(ERRORS), (*facts(ERRORS[:4]), *facts([0.9] * 5, "Q2_K")[4:])
    assert tensor_check(now, before).state == "passed"
    (note,) = changed_types(now, before)
    assert note.endswith("not compared with it: blk.4.ffn_up.weight (Q4_0 to Q2_K)")
    assert changed_types(before, before) == ()
    assert tensor_check(facts(ERRORS), facts(ERRORS, "Q8_0")).state == "not measured"
