"""Intervals of rates over people: exact ones as a reference, simulated coverage, none collapses or leaves [0, 1]."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, norm

from latentprint.stats import (
    Arm,
    Interval,
    bootstrap_by_identity,
    difference_interval,
    leak_reduction_interval,
    rate_interval,
    rate_leak_interval,
)

PEOPLE, IMAGES, RATES, LIKENESS = (2, 4, 8, 20, 100), (1, 4, 16), (0.0, 0.01, 0.05, 0.5, 0.95, 1.0), (0.0, 0.5, 1.0)
#: Coverage that simulations of a nominal 95% must show.
LEAST = 0.93


class Scale(NamedTuple):
    """True rates of an attack's floor and ceiling, and the leak."""

    floor: float
    ceiling: float
    leak: float


SCALES = (Scale(0.0, 1.0, 0.0), Scale(0.01, 0.95, 0.01), Scale(0.02, 0.9, 0.3), Scale(0.01, 0.4, 0.7),
          Scale(0.0, 1.0, 1.0), Scale(0.1, 0.6, 0.5))


def rates_of(people: np.ndarray, rate: float, likeness: float) -> np.ndarray:
    """Of people ``(P,)``, given as uniform numbers, the rate of each: beta; two images of one correlate by likeness."""
    if rate in (0.0, 1.0) or likeness == 0:
        return np.full(len(people), rate)
    if likeness == 1:
        return (people < rate).astype(float)
    k = (1 - likeness) / likeness
    return np.asarray(beta.ppf(people, rate * k, (1 - rate) * k))


def hits(rng: np.random.Generator, rates: np.ndarray, images: int) -> np.ndarray:
    """``(P * images,)`` of 0 and 1."""
    return (rng.random(len(rates) * images) < np.repeat(rates, images)).astype(float)


def trials(people: int, images: int, rate: float, likeness: float, n: int) -> Iterator[np.ndarray]:
    """Simulated hits, one array a trial."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        yield hits(rng, rates_of(rng.random(people), rate, likeness), images)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


def coverage(method: Callable[..., Interval], people: int, images: int, rate: float, likeness: float,
             n: int) -> tuple[float, float]:
    """Coverage and mean width of the interval of a rate."""
    who = np.repeat(np.arange(people), images)
    found = [method(x, who, n_resamples=1000) for x in trials(people, images, rate, likeness, n)]
    return float(np.mean([holds(each, rate) for each in found])), float(np.mean([x.high - x.low for x in found]))


def leak_coverage(people: int, images: int, scale: Scale, likeness: float, n: int) -> tuple[float, float]:
    """Coverage and median width of the interval of a leak; who is easily matched is so in all arms."""
    rng, who = np.random.default_rng(0), np.repeat(np.arange(people), images)
    attack = scale.floor + scale.leak * (scale.ceiling - scale.floor)
    found = []
    for _ in range(n):
        ease = rng.random(people)
        arms = [Arm(hits(rng, rates_of(ease, rate, likeness), images), who)
                for rate in (attack, scale.floor, scale.ceiling)]
        found.append(rate_leak_interval(*arms, n_resamples=1000))
    known = [each for each in found if not math.isnan(each.value)]
    return (float(np.mean([holds(each, scale.leak) for each in known])),
            float(np.median([each.high - each.low for each in known])))


def difference_coverage(people: int, images: int, before: float, after: float, likeness: float,
                        n: int) -> tuple[float, float]:
    rng, who, held, width = np.random.default_rng(0), np.repeat(np.arange(people), images), 0, 0.0
    for _ in range(n):
        ease = rng.random(people)
        first, second = (hits(rng, rates_of(ease, rate, likeness), images) for rate in (before, after))
        found = difference_interval(first - second, who, n_resamples=1000)
        held += holds(found, before - after)
        width += found.high - found.low
    return held / n, width / n


# ---- exact answers ----


@pytest.mark.parametrize(("people", "images"), [(4, 2), (8, 1), (50, 8)])
def test_nobody_and_everybody_is_the_exact_bound_of_so_many_people(people: int, images: int) -> None:
    who = np.repeat(np.arange(people), images)
    none, every = (rate_interval(np.full(len(who), value), who) for value in (0.0, 1.0))
    theirs = binomtest(0, people).proportion_ci(method="exact")
    assert (none.value, none.low, none.n) == (0.0, 0.0, people) and none.high == pytest.approx(theirs.high)
    assert (every.value, every.high) == (1.0, 1.0) and every.low == pytest.approx(1 - theirs.high)


@pytest.mark.parametrize(("right", "people"), [(3, 8), (19, 20), (1, 2)])
def test_people_who_are_all_or_nothing_are_clopper_and_pearson(right: int, people: int) -> None:
    who = np.repeat(np.arange(people), 3)
    found = rate_interval((who < right).astype(float), who)
    theirs = binomtest(right, people).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_draws_agree_with_the_exact_interval() -> None:
    """Unequal numbers of images take the way by draws; one image more hardly changes the interval."""
    who = np.repeat(np.arange(60), [2] * 59 + [3])
    found = rate_interval((who < 20).astype(float), who, n_resamples=40_000)
    theirs = binomtest(20, 60).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_one_person_is_one_value() -> None:
    found = rate_interval([0.0, 0.0, 0.0], ["a"] * 3)
    assert (found.low, found.n) == (0.0, 1) and found.high == pytest.approx(0.975)


def test_no_difference_is_no_certainty_either() -> None:
    found = difference_interval([0.0] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    assert found.value == 0 and (found.low, found.high) == pytest.approx((-0.602365, 0.602365), abs=1e-5)


def test_an_attack_that_never_succeeds_has_no_leak_of_zero_to_zero() -> None:
    for people in (4, 20, 100):
        who = np.arange(people)
        leak = rate_leak_interval(Arm(0 * who, who), Arm(0 * who, who), Arm(0 * who + 1, who))
        bound = 1 - 0.025 ** (1 / people)  # at least what the attack's rate alone leaves open
        assert leak.value == 0 and leak.low < 0 and bound * 0.9 < leak.high < bound / (1 - bound) * 1.1
        cut = leak_reduction_interval(Arm(0 * who, who), Arm(0 * who, who), Arm(0 * who + 1, who))
        assert cut.value == 0 and cut.low < -bound * 0.9 and cut.high > bound * 0.9


def test_six_of_six_against_none_of_six_is_a_leak() -> None:
    """As the sign test says, p = 2 / 2^6; with three people it does not, p = 2 / 2^3."""
    six, two = np.arange(6), np.arange(2)
    assert rate_leak_interval(Arm(six * 0 + 1, six), Arm(six * 0, six), Arm(six * 0 + 1, six)).low > 0
    assert rate_leak_interval(Arm(two * 0 + 1, two), Arm(two * 0, two), Arm(two * 0 + 1, two)).low < 0


def test_no_scale_no_leak_and_a_short_one_is_open() -> None:
    who = np.arange(6)
    for ceiling in (0 * who, 0 * who + 0.2):
        assert math.isnan(rate_leak_interval(Arm(0 * who + 1, who), Arm(0 * who + 0.2, who), Arm(ceiling, who)).low)
    short = rate_leak_interval(Arm([0, 0, 0, 1], range(4)), Arm([0, 0, 0, 0], range(4)), Arm([1, 0, 0, 0], range(4)))
    assert short.low == -math.inf or short.high == math.inf


def test_large_samples_agree_with_the_bootstrap() -> None:
    rng, who = np.random.default_rng(0), np.repeat(np.arange(400), 8)
    arms = [Arm(hits(rng, rates_of(rng.random(400), rate, 0.3), 8), who) for rate in (0.4, 0.1, 0.9)]
    ours, theirs = rate_interval(*arms[0]), bootstrap_by_identity(*arms[0])
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    gap = np.asarray(arms[0].values) - np.asarray(arms[1].values)
    one, other = difference_interval(gap, who), bootstrap_by_identity(gap, who)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.008)


# ---- properties ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4), min_size=1, max_size=6))
def test_no_interval_collapses_or_leaves_its_range(people: list[list[float]]) -> None:
    values = [value for person in people for value in person]
    who = [number for number, person in enumerate(people) for _ in person]
    found = rate_interval(values, who, n_resamples=400)
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.2
    turned = rate_interval([1 - value for value in values], who, n_resamples=400)
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((found.low, found.high), abs=1e-9)
    apart = difference_interval([2 * value - 1 for value in values], who, n_resamples=400)
    assert -1 <= apart.low <= apart.value <= apart.high <= 1 and apart.high - apart.low > 0.2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=8), st.data())
def test_more_hits_never_lower_an_end(scores: list[int], data: st.DataObject) -> None:
    who = np.repeat(np.arange(len(scores)), 4)
    raised = data.draw(st.integers(0, len(scores) - 1))
    more = [min(4, score + (place == raised)) for place, score in enumerate(scores)]
    before, after = (rate_interval(np.concatenate([np.arange(4) < score for score in each]), who, n_resamples=2000)
                     for each in (scores, more))
    noise = 0.03  # of the draws where one of the two is exact
    assert after.low >= before.low - noise and after.high >= before.high - noise


def test_values_that_are_no_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="expected values within 0 and 1"):
        rate_interval([0.5, 1.2], [0, 1])
    assert rate_interval([1.0 + 1e-7] * 2, [0, 1]).high == 1.0  # a mean in single precision
    with pytest.raises(ValueError, match="same identities"):
        rate_leak_interval(Arm([0.0], [0]), Arm([0.0], [1]), Arm([1.0], [0]))


# ---- simulations ----


@pytest.mark.parametrize("people", [2, 4, 20])
@pytest.mark.parametrize("likeness", LIKENESS)
def test_rates_are_covered(people: int, likeness: float) -> None:
    for rate in RATES:
        assert coverage(rate_interval, people, 8, rate, likeness, 400)[0] >= LEAST, rate


def test_the_bootstrap_does_not_cover_rare_events() -> None:
    """Why rates have intervals of their own."""
    assert coverage(rate_interval, 8, 4, 0.01, 0.5, 100)[0] >= 0.95
    assert coverage(bootstrap_by_identity, 8, 4, 0.01, 0.5, 100)[0] < 0.3


@pytest.mark.parametrize("scale", SCALES)
def test_leaks_are_covered(scale: Scale) -> None:
    for people in (4, 20):
        assert leak_coverage(people, 4, scale, 0.5, 100)[0] >= LEAST, people


def test_differences_are_covered() -> None:
    for people, (before, after), likeness in itertools.product(
            (2, 8, 20), ((0.01, 0.01), (0.5, 0.05), (1.0, 0.95)), LIKENESS):
        assert difference_coverage(people, 4, before, after, likeness, 100)[0] >= LEAST


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_of_the_simulation() -> None:
    """The tables of docs/statistics.md: run with ``-s``."""
    print("\n| people | likeness | least coverage | mean width | of the bootstrap: least coverage | mean width |")
    print("|---|---|---|---|---|---|")
    for people, likeness in itertools.product(PEOPLE, LIKENESS):
        cells = np.array([[*coverage(rate_interval, *cell, 1000), *coverage(bootstrap_by_identity, *cell, 100)]
                          for images, rate in itertools.product(IMAGES, RATES)
                          for cell in [(people, images, rate, likeness)]])
        assert cells[:, 0].min() >= LEAST
        print(f"| {people} | {likeness:g} | {cells[:, 0].min():.3f} | {cells[:, 1].mean():.3f} | "
              f"{cells[:, 2].min():.3f} | {cells[:, 3].mean():.3f} |")
    print("\n| people | floor, ceiling, leak | least coverage | widest median |\n|---|---|---|---|")
    for people, scale in itertools.product(PEOPLE, SCALES):
        leaks = [leak_coverage(people, images, scale, likeness, 300)
                 for images, likeness in itertools.product((1, 8), LIKENESS)]
        assert min(held for held, _ in leaks) >= LEAST - 0.01
        print(f"| {people} | {scale.floor:g}, {scale.ceiling:g}, {scale.leak:g} | {min(held for held, _ in leaks):.3f} "
              f"| {max(width for _, width in leaks):.2f} |")
    print("\n| people | rates | least coverage | mean width |\n|---|---|---|---|")
    for people, (before, after) in itertools.product(PEOPLE, ((0.0, 0.0), (0.01, 0.01), (0.5, 0.5), (0.5, 0.05),
                                                              (0.95, 0.05), (1.0, 0.95))):
        gaps = [difference_coverage(people, images, before, after, likeness, 300)
                for images, likeness in itertools.product((1, 8), LIKENESS)]
        assert min(held for held, _ in gaps) >= LEAST - 0.01
        print(f"| {people} | {before:g} and {after:g} | {min(held for held, _ in gaps):.3f} | "
              f"{np.mean([width for _, width in gaps]):.3f} |")


def test_normal_tails_are_not_needed() -> None:
    """At 100 people and a rate of a half the interval is close to the normal one."""
    who = np.arange(100)
    found = rate_interval(who < 50, who)
    assert found.high - 0.5 == pytest.approx(norm.ppf(0.975) * 0.05, rel=0.06)
