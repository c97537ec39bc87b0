"""What people see: the table, the page, the card."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from quantize.report import render
from quantize.report.report import Report

pytestmark = pytest.mark.slow

VOID = {"meta", "path", "use", "rect", "image", "stop"}


class Page(HTMLParser):
    """Ids, references, tags and text of a page; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        if facts.get("id"):
            self.ids.append(str(facts["id"]))
        for value in facts.values():
            self.references |= set(re.findall(r"^#(.+)$|url\(#(.+?)\)", value or ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def two(report: Report) -> Report:
    """Two artifacts: one passed, one rejected with text that must be escaped."""
    (one,) = report.results
    worst = (replace(one.worst[0], context="<script>alert(1)</script>", following="\n"),)
    other = replace(
        one,
        label="onnx:<b>int8</b>",
        bytes=one.bytes * 2,
        failures=("mean KL is above the limit",),
        notes=("rounded to nearest",),
        worst=worst,
        metrics=replace(one.metrics, kl=one.metrics.kl / 10),
    )
    return replace(report, results=(one, other), notes=("a note about the run",))


@pytest.fixture(scope="module")
def page(two: Report) -> str:
    return render.html(two)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in parsed.tags}
    assert "//" not in re.sub(r"image/png;base64,[\w+/=\s]+", "", page)
    assert "@import" not in page


def test_the_page_is_the_same_each_time(two: Report, page: str) -> None:
    assert render.html(two) == page


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {a or b for a, b in parsed.references} <= set(parsed.ids)


def test_the_page_can_be_read_without_seeing_it(page: str) -> None:
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.tags]
    assert ("html", {"lang": "en"}) in parsed.tags
    named = [facts for tag, facts in parsed.tags if tag == "table" and facts.get("aria-label")]
    assert tags.count("caption") + len(named) == tags.count("table") > 0
    pictures = [facts for _, facts in parsed.tags if facts.get("role") == "img"]
    assert len(pictures) == tags.count("figure") == tags.count("figcaption")
    assert all(len(facts["aria-label"] or "") > 20 for facts in pictures)
    assert all(facts.get("scope") for tag, facts in parsed.tags if tag == "th")


def test_every_chart_is_there(page: str) -> None:
    assert page.count("Size against KL</h2>") == 1
    for title in (
        "Tokens by KL",
        "KL by position",
        "KL by tensor",
        "Bytes by tensor",
    ):
        assert page.count(f"<h3>{title}</h3>") == 2
    assert page.count("<svg ") == 9


def test_a_single_artifact_has_no_chart_over_artifacts(report: Report) -> None:
    assert "Size against KL" not in render.html(report)


def test_what_was_not_measured_has_no_chart_and_is_said(report: Report) -> None:
    (one,) = report.results
    bare = replace(one, parts=(), tensors=(), tokenizer=None, sensitivity="not measured, too large")
    text = render.html(replace(report, results=(bare,)))
    assert text.count("<svg ") == 2
    words = Page(text).words
    assert "not measured, too large" in words
    assert "It has no tokenizer" in words


def test_an_embedding_alone_that_changed_has_no_map_of_layers(report: Report) -> None:
    (one,) = report.results
    kept = (replace(f, kl=f.kl if f.name == "token_embd.weight" else None) for f in one.tensors)
    text = render.html(replace(report, results=(replace(one, tensors=tuple(kept)),)))
    assert "<h3>KL by tensor</h3>" not in text
    assert "<h3>By layer and tensor</h3>" in text


def test_a_perfect_copy_can_be_drawn(report: Report) -> None:
    (one,) = report.results
    counts = (one.metrics.tokens, *[0] * (len(one.histogram.counts) - 1))
    perfect = replace(
        one,
        metrics=replace(one.metrics, kl=0.0, kl_p99=0.0),
        histogram=replace(one.histogram, counts=counts),
        positions=tuple(replace(part, kl=0.0, kl_se=0.0) for part in one.positions),
        parts=tuple(replace(part, kl=0.0) for part in one.parts),
        tensors=tuple(replace(fact, kl=0.0) for fact in one.tensors),
    )
    assert render.html(replace(report, results=(perfect, perfect))).count("<svg ") == 9


def test_text_of_the_evaluation_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "<b>int8" not in page
    assert "<script>alert(1)</script>" in Page(page).words


def test_the_page_gives_the_measured_figures(page: str, two: Report) -> None:
    words = Page(page).words
    metrics = two.results[0].metrics
    for figure in (f"{metrics.kl:.5f}", f"{metrics.ppl:.2f}", f"{metrics.ppl_original:.2f}"):
        assert figure in words
    assert f"{metrics.top1:.1%}" in words
    for told in ("mean KL is above the limit", "rounded to nearest", "a note about the run"):
        assert told in words
    for fact in two.results[0].tensors:
        assert fact.name in words
    assert "↵" in words


def shown(report: Report, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render.table(report))
    return out.getvalue()


def test_the_table_has_a_line_for_each_artifact_and_domain(report: Report) -> None:
    text = shown(report, 100)
    (one,) = report.results
    line = next(x for x in text.splitlines() if x.strip().startswith("small-int4"))
    assert f"{one.bytes:,}" in line
    assert f"{one.metrics.kl:.5f}±{one.metrics.kl_se:.5f}" in line
    assert f"{one.metrics.ppl:,.2f}/{one.metrics.ppl_original:,.2f}" in line
    for domain, metrics in one.domains.items():
        assert re.search(rf"{domain} .*{metrics.kl:.5f}", text)


def test_the_table_tells_notes_and_fits_80_columns(two: Report) -> None:
    named = replace(two.results[0], label="a-model-with-a-long-name-Q4_K_M.gguf")
    lines = shown(replace(two, results=(named, two.results[1])), 80).splitlines()
    assert f"{named.metrics.kl:.5f}±{named.metrics.kl_se:.5f}" in "\n".join(lines)
    assert any("rounded to nearest" in line for line in lines)
    assert any("a note about the run" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_card_says_how_to_run_what_passed_and_not_what_failed(two: Report) -> None:
    passed, failed = two.results
    gguf = replace(passed, container="gguf", label="gguf:Q8_0", file="m.gguf")
    text = render.card(
        replace(two, results=(passed, gguf, failed)), {"method": "gptq", "calibration": "builtin"}
    )
    assert f'og.Model("{passed.file}")' in text
    assert 'llama-cli -m m.gguf -p "' in text
    assert "ollama create small" in text
    assert text.count("og.Model(") == 1
    assert "- mean KL is above the limit" in text
    assert f"{passed.metrics.kl:.5f}±{passed.metrics.kl_se:.5f}" in text
    assert "- rounded to nearest" in text
    assert "{{" not in text


@pytest.mark.parametrize(
    ("count", "words"), [(999, "999 bytes"), (1536, "1.50 KiB"), (5 << 20, "5.00 MiB")]
)
def test_sizes_are_readable(count: int, words: str) -> None:
    assert render.size(count) == words


def test_a_size_is_never_four_digits_of_a_small_unit() -> None:
    assert render.size(1020 << 20) == "1.00 GiB"


def test_a_report_without_positions_can_be_drawn(report: Report) -> None:
    """As an earlier version wrote it."""
    values = report.to_json()
    for result in values["results"]:
        del result["positions"]
    text = render.html(Report.from_json(values))
    assert "KL by position" not in text
    assert text.count("<svg ") == 3


def test_kl_by_position_is_a_table(report: Report) -> None:
    (one,) = report.results
    assert [(part.first, part.last) for part in one.positions][-1] == (32, 63)
    text = Page(render.html(report)).words
    assert "1 to 4" in text
    assert "33 to 64" in text
