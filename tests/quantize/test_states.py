"""Hidden states in one array."""

import numpy as np
import pytest

from quantize.calibration.states import put_all


def test_each_place_gets_its_result_and_what_is_not_found_stays() -> None:
    states = np.zeros((4, 1, 2), np.float32)
    put_all(states, [slice(0, 2), slice(2, 4)], [np.ones((2, 1, 2), np.float32), None])
    assert states.sum() == 4
    put_all(None, [slice(0, 2)], [np.ones((2, 1, 2), np.float32)])


@pytest.mark.parametrize(("count", "told"), [(1, "fewer"), (3, "more")])
def test_a_result_too_few_or_too_many_is_an_error(count: int, told: str) -> None:
    places, results = [slice(0, 2), slice(2, 4)], [np.ones((2, 1, 2), np.float32)] * count
    with pytest.raises(ValueError, match=f"{told} results than places"):
        put_all(np.zeros((4, 1, 2), np.float32), places, results)
