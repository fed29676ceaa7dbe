"""Values with the units that they belong to, and every interval of an audit, once for all channels.

A unit is what is independent and resampled: the person whom a reconstruction shows, or the image where people are not
the unit. A number that rests on an unknown value (no threshold, no judge) is unknown, never 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from latentprint.stats import (
    Arm,
    Interval,
    bootstrap_by_identity,
    difference_interval,
    leak_interval,
    leak_reduction_interval,
    rate_interval,
    rate_leak_interval,
)

Floats = NDArray[np.float64]
#: A value with its interval, as report.json keeps it.
Json = dict[str, Any]
#: Of what was not measured.
UNKNOWN: Mapping[str, Any] = {"value": None, "low": None, "high": None, "n": 0}
#: Intervals of one arm, whose values and units are arguments of their own.
OF_ONE = (bootstrap_by_identity, difference_interval, rate_interval)
#: The arms that a leak is made of: ``(attack - floor) / (ceiling - floor)``.
LEAK_ARMS = ("attack", "floor", "ceiling")


class Values(NamedTuple):
    """Values ``(N,)`` and the unit that each belongs to, ``(N,)``: a person's or an image's number."""

    values: Floats
    units: NDArray[np.int64]

    def minus(self, other: Values) -> Values:
        """Paired differences: of the same units in the same order."""
        return Values(self.values - other.values, self.units)


class Scored(Protocol):
    """The scores of one arm of an audit, by metric."""

    def arm(self, metric: str) -> Values:
        """Values and units of a metric, NaN where it is unknown."""


@dataclass(frozen=True)
class Intervals:
    """Makes 95% intervals over units, all of one audit by the same resamples.

    Attributes:
        resamples, seed: of the bootstrap.
        rates: what the names of metrics within [0, 1] begin with.
        bounded: whether the headline is a rate; else its intervals are of the bootstrap.
    """

    resamples: int
    seed: int
    rates: tuple[str, ...] = ()
    bounded: bool = True

    def mean(self, arm: Values) -> Json:
        """Of the mean of any values, by the bootstrap over units."""
        return self._known(bootstrap_by_identity, arm)

    def rate(self, arm: Values) -> Json:
        """Of the mean of values within [0, 1]: it stays there, and has a width at both ends."""
        return self._known(rate_interval, arm)

    def metric(self, name: str, arm: Values) -> Json:
        """`rate` or `mean`, by the metric's name."""
        return self.rate(arm) if name.startswith(self.rates) else self.mean(arm)

    def difference(self, first: Values, second: Values) -> Json:
        """Of the first rate minus the second, of paired values: the same units in the same order."""
        return self._known(difference_interval, first.minus(second))

    def gain(self, first: Scored, second: Scored, metric: str) -> Json:
        """A metric of one arm minus that of another, value by value; see `difference`."""
        return self.difference(first.arm(metric), second.arm(metric))

    def leak(self, arms: Mapping[str, Scored], metric: str) -> Json:
        """``(attack - floor) / (ceiling - floor)`` of a metric like the headline."""
        return self._known(rate_leak_interval if self.bounded else leak_interval,
                           *(arms[name].arm(metric) for name in LEAK_ARMS))

    def leak_reduction(self, before: Values, after: Values, floor: Values, ceiling: Values) -> Json:
        """Leak of one attack minus that of another on the same units, of paired values, with one floor and ceiling."""
        gap = before.minus(after)
        if self.bounded:
            return self._known(leak_reduction_interval, gap, floor, ceiling)
        return self._known(leak_interval, Values(gap.values + floor.values, gap.units), floor, ceiling)

    def _known(self, method: Callable[..., Interval], *given: Values) -> Json:
        if not all(np.isfinite(each.values).all() for each in given):
            return dict(UNKNOWN)
        arms = given[0] if method in OF_ONE else [Arm(*each) for each in given]
        return method(*arms, n_resamples=self.resamples, seed=self.seed).to_json()


def per_unit(arm: Values, n: int) -> list[float | None]:
    """The mean of each of the units 0 to n - 1; None where it is unknown."""
    means = np.bincount(arm.units, arm.values, minlength=n) / np.bincount(arm.units, minlength=n).clip(1)
    return [float(value) if np.isfinite(value) else None for value in means]


def protocol(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": name, "hash": digest, **facts}
