"""The chart of bytes against KL: every artifact where it belongs, and labels that can be read."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from quantize.report import charts, frontier_chart
from quantize.report.charts import BLUE, ORANGE, STYLE
from quantize.report.report import ArtifactResult, Report
from runtime.errors import EdgequantError

MIB = 2**20

TWELVE = {
    "tiny-qwen2.5-Q2_K.gguf": (2.62, 0.1146),
    "lcpp-Q2_K.gguf": (2.62, 0.1301),
    "lcpp-IQ3_S.gguf": (2.90, 0.0390),
    "tiny-qwen2.5-Q3_K_M.gguf": (3.14, 0.0310),
    "lcpp-Q3_K_M.gguf": (3.14, 0.0325),
    "tiny-qwen2.5-Q4_0.gguf": (3.50, 0.0099),
    "lcpp-Q4_0.gguf": (3.50, 0.0143),
    "tiny-qwen2.5-Q4_K_M.gguf": (3.61, 0.0049),
    "lcpp-Q4_K_M.gguf": (3.61, 0.0104),
    "lcpp-Q5_K_M.gguf": (4.12, 0.0031),
    "tiny-qwen2.5-int4-onnx": (5.04, 0.0052),
    "tiny-qwen2.5-F32.gguf": (22.2, 0.0),
}
"""Sizes in MiB and KL of ordinary files of one model."""

CROWDS = {
    "ordinary": TWELVE,
    "all alike": {name: (3.0, 0.01) for name in TWELVE},
    "long names": {f"a-model-of-many-words-{i}-{name}-of-mine": v for i, (name, v) in
                   enumerate(TWELVE.items())},
    "all exact": {name: (size, 0.0) for name, (size, _) in TWELVE.items()},
    "one": {"alone.gguf": (3.0, 0.01)},
}  # fmt: skip


def result(one: ArtifactResult, label: str, size: float, kl: float) -> ArtifactResult:
    windows = tuple(replace(window, kl=kl) for window in one.windows)
    metrics = replace(one.metrics, kl=kl, kl_se=kl / 10)
    return replace(one, label=label, bytes=round(size * MIB), windows=windows, metrics=metrics)


def crowd(report: Report, rows: dict[str, tuple[float, float]]) -> Report:
    """A report with an artifact for each row."""
    (one,) = report.results
    return replace(report, results=tuple(result(one, name, *row) for name, row in rows.items()))


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def drawn(report: Report) -> tuple[Figure, Axes]:
    figure = frontier_chart.size_against_kl(report)
    figure.draw_without_rendering()
    return figure, figure.axes[0]


def marks(axes: Axes) -> list[ErrorbarContainer]:
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


@pytest.mark.slow
@pytest.mark.parametrize("what", CROWDS)
def test_no_label_covers_another_or_a_mark_or_leaves_the_chart(what: str, report: Report) -> None:
    many = crowd(report, CROWDS[what])
    figure, axes = drawn(many)
    texts = [text for text in axes.texts if text.get_text()]
    assert len(texts) == len(many.results)
    boxes = [text.get_window_extent() for text in texts]
    points = axes.transData.transform(frontier_chart.coordinates(many))
    for i, box in enumerate(boxes):
        assert not any(Bbox.intersection(box.padded(-0.5), other) for other in boxes[i + 1 :])
        assert not any(box.padded(1).contains(x, y) for x, y in points)
        assert figure.bbox.padded(1).containsx(box.x0)
        assert figure.bbox.padded(1).containsx(box.x1)
    assert all(axes.bbox.contains(x, y) for x, y in points)


def test_labels_are_the_artifacts_names_in_order(report: Report) -> None:
    _, axes = drawn(crowd(report, TWELVE))
    told = [text.get_text() for text in axes.texts if text.get_text()]
    assert told[:-1] == list(TWELVE)[:-1]
    assert told[-1] == "tiny-qwen2.5-F32.gguf (KL < 1e-06)"


def test_points_are_bytes_and_kl_with_their_standard_error(report: Report) -> None:
    rows = {"a": (3.0, 0.02), "b": (4.0, 0.01)}
    _, axes = drawn(crowd(report, rows))
    assert axes.get_yscale() == "log"
    for mark, (size, kl) in zip(marks(axes), rows.values(), strict=True):
        line, _, (bar,) = mark.lines
        assert line is not None
        np.testing.assert_allclose(line.get_xydata(), [[size, kl]])
        ((low, high),) = np.array(bar.get_segments())[:, :, 1]
        np.testing.assert_allclose([low, high], [0.9 * kl, 1.1 * kl])


def test_an_error_larger_than_its_kl_stays_on_the_logarithmic_axis(report: Report) -> None:
    many = crowd(report, {"a": (3.0, 0.02)})
    wide = replace(many.results[0].metrics, kl_se=0.05)
    _, axes = drawn(replace(many, results=(replace(many.results[0], metrics=wide),)))
    ((low, high),) = np.array(marks(axes)[0].lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose([low, high], [0.002, 0.07])


def test_the_line_steps_along_the_frontier_whose_marks_are_filled(report: Report) -> None:
    rows = {"c": (5.0, 0.02), "b": (4.0, 0.01), "a": (3.0, 0.03), "d": (6.0, 0.001)}
    many = crowd(report, rows)
    _, axes = drawn(many)
    (step,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(step.get_xydata(), [[3, 0.03], [4, 0.01], [6, 0.001]])
    fills = [mark.lines[0].get_markerfacecolor() for mark in marks(axes)]
    assert fills == ["none", BLUE, BLUE, BLUE]


def test_what_failed_a_gate_is_orange_and_off_the_line(report: Report) -> None:
    many = crowd(report, {"a": (3.0, 0.03), "b": (4.0, 0.01)})
    failed = replace(many.results[1], failures=("it has no tokenizer",))
    _, axes = drawn(replace(many, results=(many.results[0], failed)))
    assert marks(axes)[1].lines[0].get_color() == ORANGE
    (step,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(step.get_xydata(), [[3, 0.03]])


def test_a_kl_of_zero_is_drawn_below_the_others_as_a_triangle(report: Report) -> None:
    _, axes = drawn(crowd(report, {"a": (3.0, 0.04), "exact": (9.0, 0.0)}))
    line = marks(axes)[1].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[9, 0.01]])
    assert line.get_marker() == "v"


def test_an_axis_on_which_every_kl_is_noise_has_no_numbers(report: Report) -> None:
    _, axes = drawn(crowd(report, CROWDS["all exact"]))
    assert len(axes.get_yticks()) == len(axes.get_yticks(minor=True)) == 0
    low, high = axes.get_ylim()
    assert all(low < mark.lines[0].get_ydata()[0] < high for mark in marks(axes))


@pytest.mark.parametrize(("largest", "scale"), [(11.9, "linear"), (12.1, "log")])
def test_sizes_far_apart_are_drawn_on_a_logarithmic_axis(
    largest: float, scale: str, report: Report
) -> None:
    _, axes = drawn(crowd(report, {"a": (3.0, 0.04), "b": (largest, 0.01)}))
    assert axes.get_xscale() == scale


@pytest.mark.parametrize("span", [1.1, 3.0, 30.0, 3000.0])
def test_the_axis_has_plain_numbers_whatever_it_spans(span: float, report: Report) -> None:
    figure, axes = drawn(crowd(report, {"a": (3.0, 0.1), "b": (4.0, 0.1 / span)}))
    low, high = axes.get_ylim()
    shown = [t for t in axes.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert 2 <= len(shown) <= 10
    assert all(float(tick.label1.get_text()) == pytest.approx(tick.get_loc()) for tick in shown)


def test_an_svg_file_is_complete_and_the_same_each_time(report: Report, tmp_path: Path) -> None:
    many = crowd(report, {"<a>.gguf": (3.0, 0.04), "b.gguf": (4.0, 0.01)})
    for name in ("one.svg", "two.svg"):
        frontier_chart.write(many, tmp_path / name)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")
    words = "".join(ET.fromstring(text).itertext())
    for told in ("<a>.gguf", "b.gguf", "size, MiB", many.original.name):
        assert told in words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]


def test_a_png_file_is_a_picture_on_white(report: Report, tmp_path: Path) -> None:
    frontier_chart.write(crowd(report, {"a": (3.0, 0.04)}), tmp_path / "x.png")
    picture = matplotlib.image.imread(tmp_path / "x.png")  # (rows, columns, RGBA)
    assert picture.shape[1] == charts.WIDTH * frontier_chart.DOTS_PER_INCH
    assert picture[0, 0].tolist() == [1, 1, 1, 1]
    assert picture[..., :3].min() < 0.2


REFUSED = {
    "x.pdf": "a chart cannot be .*x.pdf; end its name in .svg or .png",
    "chart": "a chart cannot be .*chart; end its name in .svg or .png",
    "there.svg": "there.svg exists; choose another name with --chart, or move it away",
    "none/x.svg": "none does not exist; make the folder first",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_chart_that_cannot_be_written_is_refused(
    name: str, report: Report, tmp_path: Path
) -> None:
    (tmp_path / "there.svg").write_text("mine")
    with pytest.raises(EdgequantError, match=REFUSED[name]):
        frontier_chart.write(report, tmp_path / name)
    assert (tmp_path / "there.svg").read_text() == "mine"
