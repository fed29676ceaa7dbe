"""Two trade-off curves at equal accuracy: how far one lies above the other, where both have been measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Point(NamedTuple):
    """A victim: its accuracy, and what an attack recovers or misses, in any unit."""

    accuracy: float
    value: float


def mean_gap(curve: Sequence[Point], reference: Sequence[Point]) -> float | None:
    """Mean of ``curve - reference`` over the accuracies that both span, each interpolated linearly between its points.

    What Bjontegaard (2001, VCEG-M33) does to rate-distortion curves, with straight lines in place of polynomials.
    Where both share one accuracy alone, the difference there; None where they share none: nothing is extrapolated.
    Points of equal accuracy count as one, with their mean value.
    """
    if not curve or not reference:
        return None
    (x, y), (u, v) = _sorted(curve), _sorted(reference)
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if low > high:
        return None
    inner = np.concatenate((x, u))
    at = np.unique(np.concatenate(([low], inner[(inner > low) & (inner < high)], [high])))
    gap = np.interp(at, x, y) - np.interp(at, u, v)
    return float(np.trapezoid(gap, at) / (high - low)) if high > low else float(gap[0])


def _sorted(points: Sequence[Point]) -> tuple[Floats, Floats]:
    """By rising accuracy, each accuracy once."""
    given = np.array(points, np.float64)
    accuracy, place = np.unique(given[:, 0], return_inverse=True)
    return accuracy, np.bincount(place, given[:, 1]) / np.bincount(place)
