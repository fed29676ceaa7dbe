"""Intervals: a slow loop over the same draws, simulated coverage, the pairing of arms, and the corners."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from latentprint.stats import Arm, Interval, bootstrap_by_identity, leak_interval, resampled_counts

Scores = tuple[np.ndarray, np.ndarray]


def uneven_scores(seed: int, n_people: int = 7) -> Scores:
    """Scores of people with 1 to 5 photos each, in shuffled order."""
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.repeat(np.arange(n_people), rng.integers(1, 6, n_people)))
    return rng.normal(identities, 1.0), identities


def pooled(values: np.ndarray, identities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The values of one resample, person by person: the obvious way."""
    chosen = [values[identities == person] for person, times in enumerate(counts) for _ in range(times)]
    return np.concatenate(chosen)


def ends(resampled: list[float], n: int, confidence: float) -> tuple[float, float]:
    """The expanded percentile interval from a sorted list."""
    tail = norm.cdf(t.ppf((1 - confidence) / 2, n - 1) * math.sqrt(n / (n - 1)))
    ordered, last = sorted(resampled), len(resampled) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]


def test_mean_interval_equals_a_slow_loop_over_the_same_draws() -> None:
    values, identities = uneven_scores(0)
    drawn = resampled_counts(7, 300, seed=5)
    slow = [float(pooled(values, identities, counts).mean()) for counts in drawn]
    got = bootstrap_by_identity(values, identities, n_resamples=300, confidence=0.9, seed=5)
    assert (got.low, got.high) == pytest.approx(ends(slow, 7, 0.9), abs=1e-12)
    assert got.value == pytest.approx(values.mean()) and got.n == 7


def test_any_statistic_takes_whole_people() -> None:
    values, identities = uneven_scores(1)
    drawn = resampled_counts(7, 200, seed=2)
    slow = [float(np.median(pooled(values, identities, counts))) for counts in drawn]
    median: Callable[[np.ndarray], float] = np.median
    got = bootstrap_by_identity(values, identities, n_resamples=200, seed=2, statistic=median)
    assert (got.low, got.high) == pytest.approx(ends(slow, 7, 0.95))
    assert got.value == np.median(values)


def test_every_resample_draws_as_many_people_as_there_are() -> None:
    drawn = resampled_counts(20, 500, seed=0)
    assert drawn.shape == (500, 20)
    assert (drawn.sum(1) == 20).all()
    assert drawn.mean(0) == pytest.approx(np.ones(20), abs=0.2)
    # the number of times one of n is drawn is binomial(n, 1/n), variance 1 - 1/n
    assert drawn.var() == pytest.approx(0.95, abs=0.05)


def simulated_coverage(by_identity: bool, n_people: int, n_trials: int = 300) -> float:
    """How often the interval holds the true rate 0.6 when people differ (beta) and each has 10 photos."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(n_people), 10)
    units = identities if by_identity else np.arange(len(identities))
    held = 0
    for _ in range(n_trials):
        values = rng.random(len(identities)) < rng.beta(1.2, 0.8, n_people)[identities]
        interval = bootstrap_by_identity(values, units, n_resamples=600)
        held += interval.low <= 0.6 <= interval.high
    return held / n_trials


@pytest.mark.parametrize("n_people", [12, 40])
def test_95_percent_intervals_cover_95_percent(n_people: int) -> None:
    assert 0.90 <= simulated_coverage(True, n_people) <= 0.98


def test_photos_as_if_independent_would_not_cover() -> None:
    assert simulated_coverage(False, 40, n_trials=60) < 0.85


def test_leak_covers_too() -> None:
    rng, n, held = np.random.default_rng(1), 30, 0
    people = np.repeat(np.arange(n), 4)
    for _ in range(300):
        skill = rng.normal(0, 0.1, n)[people]
        floor, attack, ceiling = (rng.normal(mean + skill, 0.2) for mean in (0.1, 0.5, 0.9))
        leak = leak_interval(Arm(attack, people), Arm(floor, people), Arm(ceiling, people), n_resamples=500)
        held += leak.low <= 0.5 <= leak.high
    assert 0.90 <= held / 300 <= 0.98


def test_gaussian_interval_is_students() -> None:
    values = np.random.default_rng(3).normal(size=25)
    got = bootstrap_by_identity(values, np.arange(25), n_resamples=40_000)
    half = t.ppf(0.975, 24) * values.std(ddof=1) / 5
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12 * half)


def test_leak_equals_a_slow_loop_over_the_same_draws() -> None:
    scores = [uneven_scores(seed) for seed in (3, 4, 5)]
    arms = [Arm(values + shift, who) for (values, who), shift in zip(scores, (4, 0, 9), strict=True)]
    slow = []
    for counts in resampled_counts(7, 300, seed=1):
        attack, floor, ceiling = (pooled(np.asarray(v), np.asarray(i), counts).mean() for v, i in arms)
        slow.append(float((attack - floor) / (ceiling - floor)))
    got = leak_interval(*arms, n_resamples=300, seed=1)
    assert (got.low, got.high) == pytest.approx(ends(slow, 7, 0.95), abs=1e-12)
    attack, floor, ceiling = (np.asarray(arm.values).mean() for arm in arms)
    assert got.value == pytest.approx((attack - floor) / (ceiling - floor)) and got.n == 7


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_arms_are_paired(share: float) -> None:
    """An attack that is one mix of floor and ceiling for all people leaks that share in every resample."""
    rng = np.random.default_rng(0)
    people = np.arange(12)
    floor, ceiling = rng.uniform(0, 0.4, 12), rng.uniform(0.5, 1, 12)
    attack = floor + share * (ceiling - floor)
    leak = leak_interval(Arm(attack, people), Arm(floor, people), Arm(ceiling, people))
    assert (leak.value, leak.low, leak.high) == pytest.approx((share, share, share))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scale=st.floats(0.1, 100), shift=st.floats(-50, 50), seed=st.integers(0, 1000))
def test_leak_does_not_depend_on_the_unit(scale: float, shift: float, seed: int) -> None:
    rng, people = np.random.default_rng(seed), np.arange(8)
    plain = [rng.uniform(low, low + 0.3, 8) for low in (0.3, 0.0, 0.7)]
    first = leak_interval(*(Arm(x, people) for x in plain), n_resamples=100)
    second = leak_interval(*(Arm(scale * x + shift, people) for x in plain), n_resamples=100)
    assert second.value == pytest.approx(first.value, rel=1e-6)
    assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=1e-6)


def test_no_scale_no_leak() -> None:
    people = np.arange(6)
    same, attack = np.linspace(0.1, 0.9, 6), np.ones(6)
    for ceiling in (same, same[::-1], same - 0.1):
        leak = leak_interval(Arm(attack, people), Arm(same, people), Arm(ceiling, people))
        assert math.isnan(leak.value) and math.isnan(leak.low) and math.isnan(leak.high)


def test_a_scale_that_vanishes_in_resamples_has_an_open_end() -> None:
    people, zeros = np.arange(4), np.zeros(4)
    ceiling = np.array([1.0, 0, 0, 0])  # drawn without person 0 (32% of resamples) ceiling = floor
    leak = leak_interval(Arm(ceiling / 2, people), Arm(zeros, people), Arm(ceiling, people))
    assert leak == Interval(0.5, -math.inf, math.inf, 4)


def test_one_person_tells_nothing_about_people() -> None:
    got = bootstrap_by_identity([0.0, 1.0, 1.0], ["a", "a", "a"])
    assert got.value == pytest.approx(2 / 3) and math.isnan(got.low) and math.isnan(got.high) and got.n == 1


def test_names_may_be_strings_and_order_does_not_matter() -> None:
    values, identities = uneven_scores(6)
    shuffled = np.random.default_rng(0).permutation(len(values))
    named = np.array([f"person {i}" for i in identities])
    first = bootstrap_by_identity(values, identities)
    second = bootstrap_by_identity(values[shuffled], named[shuffled])
    assert (second.value, second.low, second.high) == pytest.approx((first.value, first.low, first.high))


def test_json_has_neither_nan_nor_infinity() -> None:
    text = json.dumps(Interval(math.nan, -math.inf, 0.5, 3).to_json(), allow_nan=False)
    assert json.loads(text) == {"value": None, "low": None, "high": 0.5, "n": 3}


@pytest.mark.parametrize(("values", "identities"), [([], []), ([1.0, 2.0], [0]), ([1.0, math.nan], [0, 1])])
def test_bad_values_are_refused(values: list[float], identities: list[int]) -> None:
    with pytest.raises(ValueError, match=r"shapes|NaN"):
        bootstrap_by_identity(values, identities)


def test_arms_of_other_people_are_refused() -> None:
    mine, others = Arm([0.0, 1.0], [0, 1]), Arm([0.0, 1.0], [0, 2])
    with pytest.raises(ValueError, match="same identities"):
        leak_interval(mine, others, mine)


def test_stats_does_not_import_torch() -> None:
    code = "import sys, latentprint.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
