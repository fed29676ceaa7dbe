"""When a stage has got all it will get."""

from __future__ import annotations

import math
from collections.abc import Sequence


def plateau(values: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether a curve is no longer falling.

    True when the mean of the last ``window`` values is not below that of the ``window`` before them by more
    than ``tolerance`` of its size. False while there are fewer than two windows, or a value in them is not a
    number.

    Args:
        values: the curve so far, oldest first.
        window: values to average over, at least 1.
        tolerance: relative, such as 0.01.
    """
    if len(values) < 2 * window:
        return False
    before = sum(values[-2 * window : -window]) / window
    now = sum(values[-window:]) / window
    return before - now <= tolerance * abs(before)


def no_lower(values: Sequence[float], patience: int) -> bool:
    """Whether the last ``patience`` values hold none that is lower than the lowest before them.

    What could not be measured (NaN) is passed over: it is neither progress nor a lack of it. False while fewer than
    ``patience + 1`` values are known.

    Args:
        values: the curve so far, oldest first.
        patience: at least 1.
    """
    known = [value for value in values if not math.isnan(value)]
    return len(known) > patience and min(known[-patience:]) >= min(known[:-patience])
