"""What an artifact says, against what it must say."""

import numpy as np

from export.stated import MISSING, Stated, same


def test_numbers_are_those_of_float32_and_of_no_other_kind() -> None:
    assert same(np.float32(0.1), 0.1) and same(np.int32(3), 3)
    assert not same(1, True) and not same("1", 1) and not same(None, 0) and not same(MISSING, 0)


def test_what_differs_is_named_with_both_values() -> None:
    found = {"a": np.array([0.1, 2], np.float32), "b": {"c": [1, 2]}, "d": "x" * 70 + "y"}
    due = {"a": [0.1, 2.5], "b": {"c": [1, 3]}, "d": "x" * 70 + "z", "e": 1}
    told = [difference.sentence() for difference in Stated(found, due, whole=True).differences()]
    assert told == [
        "a[1] is 2.0, and must be 2.5",
        "b: c[1] is 2, and must be 3",
        f'd, at character 70, is "{"x" * 10}y", and must be "{"x" * 10}z"',
        "e is missing, and must be 1",
    ]
    assert len(Stated(found, due, whole=False).differences()) == 3
    assert not Stated({"a": found["a"]}, {"a": [0.1, 2.0]}, whole=True).differences()
