"""Curves at equal accuracy: answers by hand, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentprint.metrics.matched import Point, mean_gap
from latentprint.stats import t_interval


def test_parallel_lines_differ_by_their_distance() -> None:
    reference = [Point(0.5, 4.0), Point(0.9, 2.0)]
    assert mean_gap([Point(0.6, 4.5), Point(0.8, 3.5)], reference) == pytest.approx(1.0)


def test_a_bend_counts_by_the_share_of_the_range_it_takes() -> None:
    # the curve is 0 to 0.5, then rises to 1 at 1: the mean of its excess over 0 is 0.25
    bend = [Point(0.0, 0.0), Point(0.5, 0.0), Point(1.0, 1.0)]
    assert mean_gap(bend, [Point(-1.0, 0.0), Point(2.0, 0.0)]) == pytest.approx(0.25)


def test_one_point_is_compared_with_the_line_beneath_it() -> None:
    assert mean_gap([Point(0.7, 5.0)], [Point(0.6, 2.0), Point(0.8, 4.0)]) == pytest.approx(2.0)


def test_nothing_is_extrapolated() -> None:
    assert mean_gap([Point(0.95, 5.0)], [Point(0.6, 2.0), Point(0.8, 4.0)]) is None
    assert mean_gap([], [Point(0.6, 2.0)]) is None


def test_equal_accuracies_count_as_one_point() -> None:
    assert mean_gap([Point(0.7, 1.0), Point(0.7, 3.0)], [Point(0.7, 0.5)]) == pytest.approx(1.5)


POINTS = st.lists(st.builds(Point, st.floats(0, 1), st.floats(-10, 10)), min_size=1, max_size=6)


@given(POINTS, POINTS)
def test_the_gap_changes_sign_with_the_sides(one: list[Point], other: list[Point]) -> None:
    there, back = mean_gap(one, other), mean_gap(other, one)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there == pytest.approx(-back, abs=1e-6)


@given(POINTS)
def test_a_curve_does_not_differ_from_itself(points: list[Point]) -> None:
    assert mean_gap(points, points) == pytest.approx(0.0, abs=1e-9)


def test_the_interval_over_seeds_is_students() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    # sd 1, t(0.975, 2) = 4.302653
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert np.isnan(t_interval([1.0]).low)
    with pytest.raises(ValueError, match="finite"):
        t_interval([1.0, np.nan])
