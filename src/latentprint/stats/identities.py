"""Intervals over identities.

Photos and reconstructions of one person resemble each other, so the independent unit is the person: a
resample draws *identities* with replacement, and every value of a drawn identity comes along (the cluster
bootstrap; Field and Welsh 2007, *Bootstrapping clustered data*). Plain percentile intervals are too narrow
for few people; the tails here are those of the *expanded percentile interval* of Hesterberg 2015 (arXiv
1411.5279), with which the interval of a mean agrees with Student's.

Where everyone scores the same there is nothing to resample, and the interval has no width. Rates have intervals
of their own, which do not collapse there: see `latentprint.stats.rates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: the statistic on the data as they are; NaN when it is undefined.
        low, high: its ends; NaN when they cannot be known, infinite when the data do not bound them.
        n: how many identities (independent units) stand behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """A JSON object; what is NaN or infinite becomes null, for JSON has neither."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {**{key: x if math.isfinite(x) else None for key, x in ends.items()}, "n": self.n}


Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Arm(NamedTuple):
    """The scores of one arm of an audit: ``values`` (N,) and whose each is, ``identities`` (N,)."""

    values: ArrayLike
    identities: ArrayLike


def mean(values: Floats) -> float:
    """The arithmetic mean of ``(N,)`` values."""
    return float(np.mean(values))


def resampled_counts(n: int, n_resamples: int, seed: int) -> Counts:
    """``(n_resamples, n)``: how often each of n identities is drawn when n are drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    rows = np.arange(n_resamples)[:, None] * n  # one bincount for all, each row in its own range of bins
    return np.bincount((drawn + rows).ravel(), minlength=n * n_resamples).reshape(n_resamples, n)


def bootstrap_by_identity(
    values: ArrayLike,
    identities: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    statistic: Callable[[Floats], float] = mean,
) -> Interval:
    """Interval of a statistic of the pooled values, resampling identities.

    Args:
        values: ``(N,)`` finite numbers or booleans, one for each photo or reconstruction.
        identities: ``(N,)`` whose each value is; any sortable labels.
        statistic: of a ``(M,)`` array. The mean needs no loop; any other is called once a resample.

    With a single identity nothing is known about the spread between people: the ends are NaN.

    Raises:
        ValueError: lengths differ, nothing was given, or a value is not finite.
    """
    x, names, owner = checked(Arm(values, identities))
    drawn = resampled_counts(len(names), n_resamples, seed)
    if statistic is mean:
        resampled = _means(drawn, *per_identity(x, owner, len(names)))
    else:
        resampled = np.array([statistic(np.repeat(x, counts[owner])) for counts in drawn])
    return _interval(statistic(x), resampled, resampled, len(names), confidence)


def leak_interval(
    attack: Arm,
    floor: Arm,
    ceiling: Arm,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``(attack - floor) / (ceiling - floor)`` of the arms' means, the same identities drawn for all three.

    0 is what an adversary gets without the victim, 1 what real photos of the same people score; values
    outside [0, 1] are kept. The arms must cover the same people, with any number of values of each.

    Where ceiling <= floor the scale has no length: the evaluators do not tell real photos from the floor,
    there is no leak to state, and value, low and high are NaN. A *resample* where that happens could be
    anything: it counts as minus infinity for the low end and as infinity for the high end, so that a scale
    too short for the number of people shows as an infinite end.

    Raises:
        ValueError: an arm is empty, not finite, of unequal lengths, or the arms cover different people.
    """
    arms = [checked(arm) for arm in (attack, floor, ceiling)]
    names = arms[0][1]
    if any(not np.array_equal(names, other) for _, other, _ in arms):
        raise ValueError("attack, floor and ceiling must cover the same identities")
    sums = [per_identity(x, owner, len(names)) for x, _, owner in arms]
    value = _leak(*(_means(np.ones((1, len(names)), np.int64), *arm) for arm in sums))
    if math.isnan(value[0]):
        return Interval(math.nan, math.nan, math.nan, len(names))
    drawn = resampled_counts(len(names), n_resamples, seed)
    leaks = _leak(*(_means(drawn, *arm) for arm in sums))
    undefined = np.isnan(leaks)
    return _interval(float(value[0]), np.where(undefined, -np.inf, leaks), np.where(undefined, np.inf, leaks),
                     len(names), confidence)


def checked(arm: Arm) -> tuple[Floats, NDArray, Counts]:
    """Values (N,), the sorted distinct identities (P,), and each value's index into them (N,)."""
    values, identities = np.asarray(arm.values, np.float64), np.asarray(arm.identities)
    if values.ndim != 1 or values.shape != identities.shape or not len(values):
        raise ValueError(f"expected as many values as identities and at least one, got shapes {values.shape} "
                         f"and {identities.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite: count it as a failure or leave its person out before")
    names, owner = np.unique(identities, return_inverse=True)
    return values, names, owner


def per_identity(values: Floats, owner: Counts, n: int) -> tuple[Floats, Counts]:
    """Sum and number of the values of each identity, both ``(n,)``."""
    sums = np.bincount(owner, values, minlength=n).astype(np.float64)
    return sums, np.bincount(owner, minlength=n).astype(np.int64)


def _means(drawn: Counts, sums: Floats, counts: Counts) -> Floats:
    """Mean of the pooled values of each resample, ``(R,)``."""
    return (drawn @ sums) / (drawn @ counts)


def _leak(attack: Floats, floor: Floats, ceiling: Floats) -> Floats:
    scale = ceiling - floor
    usable = scale > 1e-12  # equal means may differ by a rounding error
    return np.divide(attack - floor, scale, out=np.full_like(scale, np.nan), where=usable)


def _interval(value: float, for_low: Floats, for_high: Floats, n: int, confidence: float) -> Interval:
    """The expanded percentile interval; order statistics, for infinite resamples cannot be interpolated."""
    if n < 2:
        return Interval(value, math.nan, math.nan, n)
    # Hesterberg 2015: z_{alpha'/2} sqrt((n - 1) / n) = t_{alpha/2, n-1}
    tail = float(norm.cdf(math.sqrt(n / (n - 1)) * t.ppf((1 - confidence) / 2, n - 1)))
    low = np.quantile(for_low, tail, method="lower")
    high = np.quantile(for_high, 1 - tail, method="higher")
    return Interval(value, float(low), float(high), n)
