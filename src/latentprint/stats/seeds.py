"""Statistics over seeds: paired tests, effects, correction for many comparisons, success rates, censored times.

The unit is a seed: a whole run, independent of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import beta, chi2, t, wilcoxon

from latentprint.stats.identities import Interval

#: Up to so many pairs every pattern of signs is tried; beyond, so many random ones.
EXACT, RANDOM = 14, 20_000
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)
#: Of an exponent, so that a hopeless interval stays finite.
LARGEST = 500.0

Floats = NDArray[np.float64]


def t_interval(values: ArrayLike, confidence: float = 0.95, bounds: Bounds = UNBOUNDED) -> Interval:
    """The mean of ``(N,)`` independent values, such as one a seed, with Student's interval.

    Args:
        bounds: what the values lie within, ``(0, 1)`` for rates. The interval is then Student's on a scale without that
            end, by the delta method: the logit for two bounds, the logarithm of the distance for one (Agresti 2013,
            *Categorical Data Analysis*, section 1.6). It does not leave the bounds.

    Where all values are equal they say nothing of the spread: between two bounds the interval is then that of
    `latentprint.stats.rate_interval`, which is wide for few values (1, 1, 1 is 0.29 to 1), else it has no width.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    given = np.asarray(values, np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise ValueError(f"expected finite values (N,), at least 1, got shape {given.shape}")
    centre, n = float(given.mean()), len(given)
    if n < 2:
        return Interval(centre, math.nan, math.nan, n)
    if np.ptp(given) <= 1e-12 and all(map(math.isfinite, bounds)):
        tail = float(beta.ppf((1 + confidence) / 2, 1, n))
        return Interval(centre, centre - tail * (centre - bounds[0]), centre + tail * (bounds[1] - centre), n)
    arm = float(t.ppf((1 + confidence) / 2, n - 1) * given.std(ddof=1) / math.sqrt(n))
    return Interval(centre, *_within(centre, arm, *bounds), n)


def count_interval(counts: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of counts ``(N,)``, one a seed: as `t_interval`; of equal counts the exact interval of Garwood 1936, by
    which 0 in each of three seeds is 0 to 1.2."""
    given = np.asarray(counts, np.float64)
    if len(given) < 2 or np.ptp(given) > 0:
        return t_interval(given, confidence, (0.0, math.inf))
    total, n, tail = float(given.sum()), len(given), (1 - confidence) / 2
    low = 0.0 if total == 0 else float(chi2.ppf(tail, 2 * total)) / 2
    return Interval(total / n, low / n, float(chi2.ppf(1 - tail, 2 * total + 2)) / 2 / n, n)


def _within(centre: float, arm: float, low: float, high: float) -> tuple[float, float]:
    """The ends ``centre -+ arm``, on the scale of the bounds."""
    below, above = centre - low, high - centre
    if arm == 0 or min(below, above) <= 0:
        return max(low, centre - arm), min(high, centre + arm)
    if math.isfinite(below) and math.isfinite(above):
        span = high - low
        middle, half = logit(below / span), arm * span / (below * above)
        return low + span * float(expit(middle - half)), low + span * float(expit(middle + half))
    if math.isfinite(below):
        return low + below * math.exp(-arm / below), low + below * math.exp(min(arm / below, LARGEST))
    if math.isfinite(above):
        return high - above * math.exp(min(arm / above, LARGEST)), high - above * math.exp(-arm / above)
    return centre - arm, centre + arm


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


def paired(first: ArrayLike, second: ArrayLike, confidence: float = 0.95, bounds: Bounds = UNBOUNDED) -> Paired:
    """Compare two arms ``(n,)`` of the same seeds in the same order; ``bounds`` of the differences, -1 and 1 of rates.

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
    return Paired(t_interval(gap, confidence, bounds), effect, sign_flip(gap), ranks)


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
        horizon: the longest that a run was watched.
        median: Kaplan and Meier's; infinite where fewer than half of the runs got there.
        restricted: mean of the time up to the horizon, with its interval; NaN where no run got there, for then nothing
            is known but that the time is beyond the horizon.
    """

    reached: int
    n: int
    horizon: float
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
    reached, n, horizon = sum(time is not None for time in times), len(times), float(max(watched))
    restricted = Interval(math.nan, math.nan, math.nan, n) if reached == 0 else _restricted(times, watched, horizon)
    return Time(reached, n, horizon, kaplan_meier_median(times, watched), restricted)


def _restricted(times: Sequence[float | None], watched: Sequence[float], horizon: float) -> Interval:
    """Mean and interval of Kaplan and Meier's restricted mean from its pseudo-values (Andersen, Hansen and Klein 2004);
    of runs watched equally long these are the times, a run that never got there counted as the horizon."""
    n, mean = len(times), restricted_mean(times, watched, horizon)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    without = [restricted_mean([*times[:i], *times[i + 1:]], [*watched[:i], *watched[i + 1:]], horizon)
               for i in range(n)]
    found = t_interval([n * mean - (n - 1) * other for other in without], bounds=(0.0, horizon))
    return Interval(mean, min(mean, found.low), max(mean, found.high), n)


def restricted_mean(times: Sequence[float | None], watched: Sequence[float], horizon: float) -> float:
    """Area below Kaplan and Meier's curve up to ``horizon``."""
    area, before, left = 0.0, 0.0, 1.0
    for moment, share in _kaplan_meier(times, watched):
        area, before, left = area + left * (moment - before), moment, share
    return area + left * (horizon - before)


def kaplan_meier_median(times: Sequence[float | None], watched: Sequence[float]) -> float:
    """The first time at which the estimated share that has not got there is at most a half; infinity without one."""
    return next((moment for moment, left in _kaplan_meier(times, watched) if left <= 0.5 + 1e-12), math.inf)


def _kaplan_meier(times: Sequence[float | None], watched: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Each time at which a run got there, and the estimated share of runs that have not by then."""
    ends = [(end if time is None else time, time is not None) for time, end in zip(times, watched, strict=True)]
    left = 1.0
    for moment in sorted({end for end, reached in ends if reached}):
        at_risk = sum(end >= moment for end, _ in ends)
        events = sum(end == moment and reached for end, reached in ends)
        left *= 1 - events / at_risk
        yield float(moment), left
