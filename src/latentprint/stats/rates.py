"""Intervals for rates over people, which neither collapse at 0 and 1 nor leave [0, 1].

A bootstrap over people says nothing of anybody unlike those seen: of 4 people who are never accepted it makes 0 to 0%.
Here each end is a quantile of the weighted mean of the people seen and of *one unseen person with the extreme value*,
under random weights (exponential, the Bayesian bootstrap of Rubin 1981). Source: the bound of Gaffke 2005, which
Learned-Miller and Thomas 2020 (arXiv 1905.06208) proposed again and tested. For values 0 and 1 it is the interval of
Clopper and Pearson 1934 with n the number of people: 0 of 4 people is 0 to 60%. For other values in the range it is
narrower, without an assumption on how alike a person's images are. That it always covers at least what it says is a
conjecture; ``tests/test_stats_rates.py`` simulates it, and ``docs/statistics.md`` has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from latentprint.stats.identities import Arm, Interval, checked, per_identity
from latentprint.stats.seeds import success_rate

Floats = NDArray[np.float64]
#: A mean of probabilities in single precision may exceed 1 by so much.
ROUNDING = 1e-5
#: Up to so many weights are kept for the next metric.
KEPT = 2_000_000


class Weights(NamedTuple):
    """``people`` (R, P): positive weights of P people in R draws. ``unseen`` (R, 3): of each arm's unseen person."""

    people: Floats
    unseen: Floats


class Smoothed(NamedTuple):
    """Means ``(R,)`` of an arm in R draws, with an unseen person who has the lowest or the highest value."""

    low: Floats
    high: Floats


def weights(n: int, n_resamples: int, seed: int) -> Weights:
    """Exponential weights; the same for the same arguments, so that metrics of the same people share them."""
    return _kept(n, n_resamples, seed) if n * n_resamples <= KEPT else _kept.__wrapped__(n, n_resamples, seed)


@lru_cache(maxsize=2)
def _kept(n: int, n_resamples: int, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(rng.standard_exponential((n_resamples, n)), rng.standard_exponential((n_resamples, 3)))


def rate_interval(
    values: ArrayLike,
    identities: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Interval of the mean of values that lie within ``bounds``, clustered by person; see the module.

    Args:
        values: ``(N,)`` booleans or numbers within ``bounds``, one for each image. A difference of two rates, image by
            image or person by person, has the bounds ``(-1, 1)``.
        identities: ``(N,)`` whose each value is.

    Of people with unequal numbers of images the unseen one has as many as the average. The interval of a single person
    is that of one value.

    Raises:
        ValueError: lengths differ, nothing was given, or a value is not finite or out of bounds.
    """
    low, high = bounds
    x, names, owner = _bounded(Arm(values, identities), bounds)
    sums, counts = per_identity(x, owner, len(names))
    value, n, tail = float(np.mean(x)), len(names), (1 - confidence) / 2
    if np.ptp(sums / counts) <= 1e-12:  # everyone alike: the weight of the unseen person is all that varies
        unseen = float(beta.ppf(1 - tail, 1, n))
        return Interval(value, value - unseen * (value - low), value + unseen * (high - value), n)
    if np.ptp(counts) == 0 and np.isin(sums / counts, bounds).all():  # Clopper and Pearson, without draws
        exact = success_rate(round((value - low) / (high - low) * n), n, confidence)
        return Interval(value, low + (high - low) * exact.low, low + (high - low) * exact.high, n)
    found = _smoothed(sums, counts, weights(n, n_resamples, seed), 0, bounds)
    return Interval(value, min(value, _quantile(found.low, tail)), max(value, _quantile(found.high, 1 - tail)), n)


def difference_interval(values: ArrayLike, identities: ArrayLike, *, n_resamples: int = 2000, confidence: float = 0.95,
                        seed: int = 0) -> Interval:
    """Interval within [-1, 1] of a difference of two rates from paired differences ``(N,)``, clustered by person."""
    return rate_interval(values, identities, n_resamples=n_resamples, confidence=confidence, seed=seed,
                         bounds=(-1.0, 1.0))


def rate_leak_interval(attack: Arm, floor: Arm, ceiling: Arm, *, n_resamples: int = 2000, confidence: float = 0.95,
                       seed: int = 0) -> Interval:
    """``(attack - floor) / (ceiling - floor)`` of three rates of the same people, see `leak_interval`.

    People have one weight in all arms, so that the arms are paired, and each arm has an unseen person of its own: for
    the high end one who is matched by the attack but neither by the floor nor by real photos, for the low end the
    reverse. An end is where ``attack - floor = leak (ceiling - floor)`` is no longer rejected, as Fieller's (1954).

    A draw in which the scale has no length counts as infinite. Value and ends are NaN where ceiling <= floor.

    Raises:
        ValueError: as `rate_interval`, or the arms cover different people.
    """
    def ratio(a: Floats, f: Floats, c: Floats) -> Floats:
        return (a - f) / (c - f)

    return _scaled(attack, floor, ceiling, ratio, (0.0, 1.0), n_resamples, confidence, seed)


def leak_reduction_interval(gap: Arm, floor: Arm, ceiling: Arm, *, n_resamples: int = 2000, confidence: float = 0.95,
                            seed: int = 0) -> Interval:
    """``gap / (ceiling - floor)``: by how much the leaks of two attacks on the same people differ.

    Args:
        gap: paired differences of the attacks' hits, in [-1, 1]. floor, ceiling: of both attacks.

    As `rate_leak_interval`; the unseen person of the gap has it at 1 for the high end and at -1 for the low one.
    """
    def ratio(g: Floats, f: Floats, c: Floats) -> Floats:
        return g / (c - f)

    return _scaled(gap, floor, ceiling, ratio, (-1.0, 1.0), n_resamples, confidence, seed)


def _scaled(first: Arm, floor: Arm, ceiling: Arm, ratio: Callable[[Floats, Floats, Floats], Floats],
            bounds: tuple[float, float], n_resamples: int, confidence: float, seed: int) -> Interval:
    limits = (bounds, (0.0, 1.0), (0.0, 1.0))
    arms = [_bounded(*each) for each in zip((first, floor, ceiling), limits, strict=True)]
    names = arms[0][1]
    if any(not np.array_equal(names, other) for _, other, _ in arms):
        raise ValueError("attack, floor and ceiling must cover the same identities")
    n, (a, f, c) = len(names), (np.array([x.mean()]) for x, _, _ in arms)
    if not c > f + 1e-12:
        return Interval(np.nan, np.nan, np.nan, n)
    drawn, tail = weights(n, n_resamples, seed), (1 - confidence) / 2
    a_, f_, c_ = (_smoothed(*per_identity(x, owner, n), drawn, place, limit)
                  for place, ((x, _, owner), limit) in enumerate(zip(arms, limits, strict=True)))
    low, high = _at(ratio, a_.low, f_.high, c_.high, -np.inf), _at(ratio, a_.high, f_.low, c_.low, np.inf)
    value = float(ratio(a, f, c)[0])
    return Interval(value, min(value, _quantile(low, tail)), max(value, _quantile(high, 1 - tail)), n)


def _bounded(arm: Arm, bounds: tuple[float, float]) -> tuple[Floats, NDArray[np.generic], NDArray[np.int64]]:
    """As `checked`; what exceeds a bound by a rounding error is put on it."""
    x, names, owner = checked(arm)
    low, high = bounds
    if x.min() < low - ROUNDING or x.max() > high + ROUNDING:
        raise ValueError(f"expected values within {low:g} and {high:g}, got {x.min():g} to {x.max():g}")
    return x.clip(low, high), names, owner


def _at(ratio: Callable[[Floats, Floats, Floats], Floats], first: Floats, floor: Floats, ceiling: Floats,
        undefined: float) -> Floats:
    """The ratio ``(R,)``, and ``undefined`` where ceiling <= floor."""
    usable = ceiling - floor > 1e-12
    return np.where(usable, ratio(first, floor, np.where(usable, ceiling, floor + 1)), undefined)


def _smoothed(sums: Floats, counts: NDArray[np.int64], drawn: Weights, arm: int,
              bounds: tuple[float, float]) -> Smoothed:
    extra = drawn.unseen[:, arm] * counts.mean()
    total, size = drawn.people @ sums, drawn.people @ counts + extra
    return Smoothed((total + bounds[0] * extra) / size, (total + bounds[1] * extra) / size)


def _quantile(values: Floats, share: float) -> float:
    """An order statistic away from the middle, for infinite values cannot be interpolated."""
    return float(np.quantile(values, share, method="lower" if share < 0.5 else "higher"))
