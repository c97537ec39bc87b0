"""Labels of a chart lie inside it and cover neither each other nor a point."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantize.report.labels import LONGEST, candidates, place, short_names

AREA = np.array([0.0, 0.0, 300.0, 400.0])
GAP = 4.0
NOTHING = np.zeros((0, 4))

# few different places, so that points on top of each other are common
points = st.lists(
    st.tuples(st.integers(0, 6).map(lambda n: 50.0 * n), st.integers(0, 8).map(lambda n: 50.0 * n)),
    min_size=1,
    max_size=10,
).map(np.array)
widths = st.lists(st.floats(10, 200), min_size=10, max_size=10)


def covers(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes have a common area, up to rounding."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return bool(wide > 1e-9 and high > 1e-9)


@given(points, widths)
def test_labels_keep_off_each_other_and_off_every_point(at: np.ndarray, wide: list[float]) -> None:
    sizes = np.array([(wide[i], 10.0) for i in range(len(at))])
    boxes = place(at, sizes, AREA, NOTHING, GAP)
    assert boxes is not None  # ten labels always have room here
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
    assert (boxes[:, :2] >= AREA[:2] - 1e-9).all()
    assert (boxes[:, 2:] <= AREA[2:] + 1e-9).all()
    dots = [np.array([x - GAP, y - GAP, x + GAP, y + GAP]) for x, y in at]
    for i, box in enumerate(boxes):
        assert not any(covers(box, other) for other in boxes[i + 1 :])
        assert not any(covers(box, dot) for dot in dots)


def test_a_label_alone_stands_right_of_its_point_and_left_where_the_chart_ends() -> None:
    size = np.array([[60.0, 10.0]])
    (free,) = place(np.array([[100.0, 200.0]]), size, AREA, NOTHING, GAP)
    assert free.tolist() == [104, 195, 164, 205]
    (late,) = place(np.array([[290.0, 200.0]]), size, AREA, NOTHING, GAP)
    assert late.tolist() == [226, 195, 286, 205]


def test_a_label_steps_off_a_line_when_there_is_room_beside_it() -> None:
    point, size = np.array([[100.0, 200.0]]), np.array([[60.0, 10.0]])
    line = np.array([[100.0, 199.0, 300.0, 201.0]])
    (box,) = place(point, size, AREA, line, GAP)
    assert not covers(box, line[0])
    everywhere = np.array([AREA])
    assert place(point, size, AREA, everywhere, GAP) is not None


def test_no_room_is_told() -> None:
    small = np.array([0.0, 0.0, 50.0, 14.0])
    at = np.array([[25.0, 7.0], [25.0, 7.0]])
    assert place(at, np.array([[45.0, 10.0]] * 2), small, NOTHING, GAP) is None


def test_a_label_wider_than_the_chart_starts_at_its_edge() -> None:
    boxes = candidates(np.array([150.0, 200.0]), np.array([400.0, 10.0]), AREA, GAP)
    assert (boxes[:, 0] == 0).all()


def test_names_lose_the_words_that_all_of_them_start_with() -> None:
    names = ["tiny-qwen2.5-Q4_K_M.gguf", "tiny-qwen2.5-Q4_0.gguf", "tiny-qwen2.5-int4-onnx"]
    assert short_names(names) == ["Q4_K_M.gguf", "Q4_0.gguf", "int4-onnx"]
    assert short_names(["gguf:Q4_0", "onnx:int4"]) == ["gguf:Q4_0", "onnx:int4"]
    assert short_names(["model-a.gguf"]) == ["model-a.gguf"]
    assert short_names(["a-", "a-b"]) == ["a-", "b"]


def test_a_long_name_loses_its_middle() -> None:
    (name,) = short_names(["some-model-of-seven-billion-weights-instruct-Q4_K_M.gguf"])
    assert len(name) == LONGEST
    assert name.startswith("some-model-of-s")
    assert name.endswith("instruct-Q4_K_M.gguf"[-18:])
