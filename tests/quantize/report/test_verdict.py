"""What stands first in a report, and what is too little to tell by."""

import re
from dataclasses import replace

import pytest

from quantize.report import verdict
from quantize.report.layers import by_layer
from quantize.report.report import GateValues, Report
from tests.quantize.report.test_render import Page, shown


def of(report: Report, *failed: bool) -> Report:
    """As many artifacts, each rejected or not."""
    (one,) = report.results
    results = (
        replace(one, label=f"a{place}", failures=("mean KL is high",) * bad)
        for place, bad in enumerate(failed)
    )
    return replace(report, results=tuple(results))


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ((False,), "Passed."),
        ((True,), "Rejected."),
        ((False, False), "Both artifacts passed."),
        ((True, True), "Both artifacts rejected."),
        ((False,) * 3, "All 3 artifacts passed."),
        ((True,) * 3, "All 3 artifacts rejected."),
        ((False, True, True), "1 of 3 artifacts passed; rejected: a1, a2."),
    ],
)
def test_the_headline_counts_and_names(failed: tuple[bool, ...], said: str, report: Report) -> None:
    assert verdict.headline(of(report, *failed)) == said


def test_passing_without_a_limit_is_said_to_mean_sound(report: Report) -> None:
    assert any("No limit on the loss was set" in line for line in verdict.conditions(report))
    limited = replace(report, gates=GateValues(max_kl=1.0))
    assert not any("No limit" in line for line in verdict.conditions(limited))


def with_windows(report: Report, domain: int, all_of_them: int) -> Report:
    """The report as if there had been so many windows of each domain."""
    (one,) = report.results
    domains = {n: replace(m, windows=domain, kl_se=0.125) for n, m in one.domains.items()}
    evaluation = replace(report.evaluation, windows=all_of_them)
    return replace(report, results=(replace(one, domains=domains),), evaluation=evaluation)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "few"), [(1, True), (7, True), (8, False)])
def test_a_domain_of_fewer_than_8_windows_has_no_error_and_is_named(
    count: int, few: bool, report: Report
) -> None:
    from quantize.report import render

    changed = with_windows(report, count, 64)
    page, table = Page(render.html(changed)).words, shown(changed, 100)
    for text in (page, table):
        assert ("Too few windows to tell by kind of text" in text) == few
        assert (f"math ({count} window" in text) == few
        assert ("±0.12500" in text) == (not few)
    assert (f"{count}, too few" in page) == few
    assert "Measured on" not in page


def test_few_windows_in_all_are_said(report: Report) -> None:
    assert any("Measured on 7 windows" in x for x in verdict.conditions(with_windows(report, 9, 7)))
    assert not any("Measured on" in x for x in verdict.conditions(with_windows(report, 9, 8)))


def test_layers_have_all_tensors_once_and_the_largest_kl_is_a_full_bar(report: Report) -> None:
    (one,) = report.results
    layers = by_layer(one)
    assert [fact for layer in layers for fact in layer.tensors] == list(one.tensors)
    assert [layer.name for layer in layers][:2] == ["embedding", "layer 0"]
    assert max(layer.share for layer in layers) == 1
    measured = {layer.kl for layer in layers if layer.kl is not None}
    assert measured == {part.kl for part in one.parts}
    assert sum(layer.bytes for layer in layers) == sum(fact.bytes for fact in one.tensors)


@pytest.mark.slow
def test_a_tensor_of_another_type_than_was_asked_for_is_told(report: Report) -> None:
    from quantize.report import render

    (one,) = report.results
    at = next(i for i, fact in enumerate(one.tensors) if fact.name == "blk.0.attn_q.weight")
    facts = list(one.tensors)
    facts[at] = replace(facts[at], asked="Q9_X")
    words = Page(render.html(replace(report, results=(replace(one, tensors=tuple(facts)),)))).words
    assert f"{facts[at].type} instead of Q9_X" in words
    assert re.search(r"layer 0.*?1 not of the type asked for", words, re.DOTALL)
