"""Statistics over seeds: known answers, parity with scipy and statsmodels' formulas by hand, simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from latentprint.stats import (
    count_interval,
    holm,
    kaplan_meier_median,
    paired,
    sign_flip,
    success_rate,
    t_interval,
    time_to_threshold,
)


def test_paired_by_hand() -> None:
    found = paired([1.0, 2.0, 4.0], [2.0, 4.0, 7.0])
    assert found.difference.value == pytest.approx(2.0) and found.effect == pytest.approx(2.0)  # 1, 2, 3: sd 1
    assert found.difference.low == pytest.approx(2 - 4.302652 / math.sqrt(3), abs=1e-5)
    assert found.p_signs == pytest.approx(2 / 8)
    assert math.isnan(paired([1.0, 1.0], [1.0, 1.0]).p_wilcoxon) and paired([1.0, 1.0], [1.0, 1.0]).p_signs == 1
    assert math.isnan(paired([1.0], [3.0]).effect)
    with pytest.raises(ValueError, match="the same seeds"):
        paired([1.0], [1.0, 2.0])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_sign_flips_against_a_loop_and_scipy(values: list[float]) -> None:
    loop = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((-1, 1), repeat=len(values))]
    tolerance = 1e-12 * max(1.0, sum(map(abs, values)))
    assert sign_flip(values) == pytest.approx(np.mean([x >= abs(sum(values)) - tolerance for x in loop]), abs=1 / 64)


def test_sign_flips_against_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(values) == pytest.approx(theirs)


def test_random_patterns_agree_with_exact_ones() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, 16)
    sums = np.array(list(itertools.product((-1.0, 1.0), repeat=16))) @ values
    exact = np.mean(np.abs(sums) >= abs(values.sum()) - 1e-9)
    assert sign_flip(values) == pytest.approx(exact, abs=0.01)


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": math.nan}, nan_ok=True)
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 5), (17, 40)])
def test_success_rates_against_scipy(k: int, n: int) -> None:
    theirs = binomtest(k, n).proportion_ci(method="exact")
    found = success_rate(k, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        success_rate(n + 1, n)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_success_rates_cover_at_least_what_they_say(share: float) -> None:
    rng, n = np.random.default_rng(0), 8
    inside = [success_rate(int(k), n) for k in rng.binomial(n, share, 2000)]
    assert np.mean([found.low <= share <= found.high for found in inside]) >= 0.945


def test_time_with_runs_that_never_got_there() -> None:
    found = time_to_threshold([10, 30, None, 20], [50, 50, 40, 50])
    assert (found.reached, found.n, found.median) == (3, 4, 20.0)
    # By hand: all until 10, 3/4 until 20, 1/2 until 30, 1/4 until the last was watched at 50.
    assert found.restricted.value == pytest.approx(10 + 7.5 + 5 + 5) and found.horizon == 50
    assert 0 < found.restricted.low < 27.5 < found.restricted.high < 50
    alike = time_to_threshold([20, None, 40], [50, 50, 50]).restricted  # watched equally long: the mean, 50 for the one
    assert alike.value == pytest.approx((20 + 50 + 40) / 3)
    assert time_to_threshold([None, None, 5], [9, 9, 9]).median == math.inf
    # By hand: 3 of 4 left after 10, then one leaves unseen at 15, then 3/4 * 1/2 < 1/2 at 20.
    assert kaplan_meier_median([10, None, 20, 30], [40, 15, 40, 40]) == 20
    with pytest.raises(ValueError, match="after the run had ended"):
        time_to_threshold([60], [50])


def test_of_runs_that_all_failed_to_get_there_no_time_is_known() -> None:
    found = time_to_threshold([None, None], [16, 16])
    assert (found.reached, found.n, found.horizon, found.median) == (0, 2, 16.0, math.inf)
    assert all(map(math.isnan, (found.restricted.value, found.restricted.low, found.restricted.high)))


@pytest.mark.parametrize(("values", "bounds"), [
    ([0.42, 0.768], (0, 1)), ([0.98, 0.85, 0.945], (0, 1)), ([1.0, 1.0, 0.99], (0, 1)), ([-0.9, 0.4], (-1, 1)),
    ([0.6, 0.99], (-math.inf, 1)), ([0.001, 3.0], (0, math.inf)), ([0, 0, 0, 1], (0, 1))])
def test_intervals_stay_within_bounds(values: list[float], bounds: tuple[float, float]) -> None:
    found = t_interval(values, bounds=bounds)
    assert bounds[0] <= found.low < found.value < found.high <= bounds[1]


def test_bounded_intervals_by_hand() -> None:
    values = np.array([0.94, 0.90, 0.935])
    arm = 4.302653 * values.std(ddof=1) / math.sqrt(3)
    middle, half = math.log(0.925 / 0.075), arm / (0.925 * 0.075)
    found = t_interval(values, bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx((1 / (1 + math.exp(half - middle)),
                                                     1 / (1 + math.exp(-half - middle))), abs=1e-6)
    far = t_interval(values, bounds=(-1e6, 1e6))  # bounds far away change nothing
    assert (far.low, far.high) == pytest.approx((0.925 - arm, 0.925 + arm), abs=1e-4)


def test_equal_values_are_no_certainty() -> None:
    found = t_interval([1.0, 1.0, 1.0], bounds=(0, 1))
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.025 ** (1 / 3))
    assert count_interval([0, 0, 0]).high == pytest.approx(-math.log(0.025) / 3) and count_interval([0, 0]).low == 0
    many = count_interval([4, 4])  # 8 in all: Garwood's 3.454 to 15.763
    assert (many.low, many.high) == pytest.approx((3.4538 / 2, 15.7632 / 2), abs=1e-4)
    assert count_interval([0, 3, 1]).low > 0


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_intervals_of_rates_over_seeds_cover(n: int, rate: float) -> None:
    """A seed's rate is a share of 100 images of people who differ from seed to seed."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(100, rng.beta(20 * rate, 20 * (1 - rate), (800, n))) / 100
    found = [t_interval(row, bounds=(0, 1)) for row in rates]
    assert np.mean([each.low <= rate <= each.high for each in found]) >= 0.93


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_over_seeds_cover(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [paired(np.zeros(n), rng.normal(1.0, 2.0, n)).difference for _ in range(400)]
    assert abs(np.mean([each.low <= 1.0 <= each.high for each in found]) - 0.95) < 0.04
