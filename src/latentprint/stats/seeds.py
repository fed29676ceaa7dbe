"""Statistics over seeds: paired tests, effects, correction for many comparisons, success rates, censored times.

The unit is a seed: a whole run, independent of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, t, wilcoxon

from latentprint.stats.interval import Interval

#: Up to so many pairs every pattern of signs is tried; beyond, so many random ones.
EXACT, RANDOM = 14, 20_000

Floats = NDArray[np.float64]


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of ``(N,)`` independent values, such as one a seed, with Student's interval.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    given = np.asarray(values, np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise ValueError(f"expected finite values (N,), at least 1, got shape {given.shape}")
    centre, n = float(given.mean()), len(given)
    if n < 2:
        return Interval(centre, math.nan, math.nan, n)
    arm = float(t.ppf((1 + confidence) / 2, n - 1) * given.std(ddof=1) / math.sqrt(n))
    return Interval(centre, centre - arm, centre + arm, n)


class Paired(NamedTuple):
    """Two arms over the same seeds.

    Attributes:
        difference: mean of second less first, with Student's interval.
        effect: that mean over the standard deviation of the differences (Cohen's d_z); NaN without spread.
        p_signs: two-sided p of the sign-flip permutation test of the mean. With n pairs it is at least 2 / 2^n: three
            seeds never reach 0.05.
        p_wilcoxon: of Wilcoxon's signed-rank test; NaN where all differences are 0.
    """

    difference: Interval
    effect: float
    p_signs: float
    p_wilcoxon: float


def paired(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Paired:
    """Compare two arms ``(n,)`` of the same seeds in the same order.

    Raises:
        ValueError: lengths differ, fewer than one pair, or values that are not finite.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected two arms of the same seeds, got {a.shape} and {b.shape}")
    gap = b - a
    spread = float(gap.std(ddof=1)) if len(gap) > 1 else math.nan
    effect = float(gap.mean()) / spread if spread > 0 else math.nan
    ranks = float(wilcoxon(gap).pvalue) if np.any(gap != 0) and len(gap) > 1 else math.nan
    return Paired(t_interval(gap, confidence), effect, sign_flip(gap), ranks)


def sign_flip(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p that the mean is 0: the share of sign patterns with a mean at least as far from 0.

    Exact for few pairs; else among random patterns, the one seen counted in (Phipson and Smyth 2010).
    """
    gap = np.asarray(differences, float)
    n, seen = len(gap), abs(gap.sum())
    tolerance = 1e-12 * max(1.0, np.abs(gap).sum())
    if n <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float((np.abs(signs @ gap) >= seen - tolerance).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (RANDOM, n))
    return float((1 + (np.abs(signs @ gap) >= seen - tolerance).sum()) / (1 + RANDOM))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family (Holm 1979); what is NaN stays NaN and does not count."""
    known = sorted((value, key) for key, value in p.items() if not math.isnan(value))
    adjusted, highest = dict(p), 0.0
    for rank, (value, key) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[key] = highest
    return adjusted


def success_rate(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A share with the interval of Clopper and Pearson (1934).

    Raises:
        ValueError: not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"expected 0 <= successes <= n with n above 0, got {successes} of {n}")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(successes / n, low, high, n)


class Time(NamedTuple):
    """When something was first reached, over runs of which some never did.

    Attributes:
        reached: runs that did. n: all.
        median: Kaplan and Meier's; infinite where fewer than half of the runs got there.
        restricted: mean of the time, a run that never got there counted as long as it was watched, with Student's
            interval.
    """

    reached: int
    n: int
    median: float
    restricted: Interval


def time_to_threshold(times: Sequence[float | None], watched: Sequence[float]) -> Time:
    """Times of runs, None where the threshold was not reached by the end of what was ``watched``.

    Raises:
        ValueError: lengths differ, no runs, or a time beyond what was watched.
    """
    if len(times) != len(watched) or not times:
        raise ValueError(f"expected a time or None for each of the {len(watched)} runs, got {len(times)}")
    if any(time is not None and time > end for time, end in zip(times, watched, strict=True)):
        raise ValueError("a threshold was reached after the run had ended")
    shown = [end if time is None else time for time, end in zip(times, watched, strict=True)]
    return Time(sum(time is not None for time in times), len(times), kaplan_meier_median(times, watched),
                t_interval(shown))


def kaplan_meier_median(times: Sequence[float | None], watched: Sequence[float]) -> float:
    """The first time at which the estimated share that has not got there is at most a half; infinity without one."""
    ends = [(end if time is None else time, time is not None) for time, end in zip(times, watched, strict=True)]
    left = 1.0
    for moment in sorted({end for end, reached in ends if reached}):
        at_risk = sum(end >= moment for end, _ in ends)
        events = sum(end == moment and reached for end, reached in ends)
        left *= 1 - events / at_risk
        if left <= 0.5 + 1e-12:
            return float(moment)
    return math.inf
