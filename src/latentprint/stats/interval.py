"""A value and what is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
