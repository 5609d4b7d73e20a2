"""Answers, and when two of them are the same."""

from __future__ import annotations

import numpy as np
import pytest

from ifmmin.runtime.prediction import allowed_differences, largest_differences


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("both", [True, False])
def test_what_is_not_finite_differs_without_bound(value: float, both: bool) -> None:
    wanted = np.array([[1.0, 2.0], [3.0, 4.0]])
    found = wanted + 0.5
    found[1, 0] = value
    if both:
        wanted[1, 0] = value
    assert largest_differences(found, wanted).tolist() == [0.5, np.inf]


def test_a_difference_may_be_absolute_or_of_the_largest_value() -> None:
    wanted = np.array([[0.0, 1.0], [-50.0, 2.0], [0.0, 0.0]], np.float32)
    assert allowed_differences(wanted, 0.1, 0.01).tolist() == [0.1, 0.5, 0.1]
    assert allowed_differences(wanted, 0.1).tolist() == [0.1] * 3
    assert float(largest_differences(wanted[1], wanted[0])) == 50.0
    assert largest_differences(np.zeros((2, 0)), np.zeros((2, 0))).tolist() == [0.0, 0.0]
