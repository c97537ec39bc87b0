"""Checks and flipped tokens, as the page, the table and the card show them."""

from dataclasses import replace

from quantize.report import render
from quantize.report.checks import Check
from quantize.report.report import GateValues, Report
from tests.quantize.report.schemas import errors, schema

CHECKS = (
    Check("max-kl", "failed", 0.0421, 0.01, ("mean KL is <high>",), asked=True),
    Check("tensors", "passed"),
    Check("hashes", "not measured", told=("it holds no hashes",)),
)


def with_checks(report: Report, *checks: Check) -> Report:
    return replace(report, results=(replace(report.results[0], checks=checks),))


def test_the_page_has_every_check_with_its_figures(report: Report) -> None:
    page = render.html(with_checks(report, *CHECKS))
    assert "All 3 checks: 1 failed, 1 not measured" in page
    assert '<th scope="row">max-kl</th><td class="left">failed</td>' in page
    assert "<td>0.0421</td>" in page and "<td>0.01</td>" in page
    assert "mean KL is &lt;high&gt;" in page
    assert "it holds no hashes" in page


def test_flipped_tokens_are_those_of_greatest_divergence(report: Report) -> None:
    (result,) = report.results
    assert 0 < len(result.flipped) <= len(result.worst)
    assert all(token.original != token.artifact for token in result.flipped)
    kl = [token.kl for token in result.flipped]
    assert kl == sorted(kl, reverse=True)
    worst = [replace(t, expected=()) for t in result.worst if t.original != t.artifact]
    assert list(result.flipped[: len(worst)]) == worst
    flipped = round(result.metrics.flipped * result.metrics.tokens)
    assert len(result.flipped) == min(flipped, len(result.worst))
    assert "Tokens that flipped" in render.html(report)


def test_a_gate_without_a_measurement_is_never_called_passed(report: Report) -> None:
    left_open = Check("baseline", "not measured", told=("too few",), asked=True)
    (result,) = with_checks(report, left_open).results
    assert render.status(result) == "not measured"
    assert render.status(replace(result, failures=("x",))) == "rejected"
    assert render.status(with_checks(report, *CHECKS[1:]).results[0]) == "passed"


def test_the_page_tells_the_limits_that_were_asked_for(report: Report) -> None:
    gates = GateValues(max_kl=0.05, max_kl_p999=1.0, baseline="r.json")
    page = render.html(replace(report, gates=gates))
    assert "Gates: max-kl 0.05, baseline r.json, max-kl-p999 1.0." in page
    assert "Gates: only soundness (no NaN, tokenizer round trip)." in render.html(report)


def test_the_json_of_checks_follows_the_schema(report: Report) -> None:
    values = with_checks(report, *CHECKS).to_json()
    assert errors(values, schema(), schema()) == []
    values["results"][0]["checks"][0]["state"] = "fine"
    assert errors(values, schema(), schema()) != []


def test_the_tail_is_told_in_the_words_of_llama_perplexity(report: Report) -> None:
    metrics = replace(report.results[0].metrics, kl_p99=0.5, kl_p999=1.25, kl_max=2.0, top1=0.875)
    told = "99% KL 0.50000, 99.9% KL 1.25000, maximum 2.00000; 12.50% of top tokens flipped"
    assert render.tail(metrics) == told
    assert "99.9% KL unknown" in render.tail(replace(metrics, kl_p999=None))
