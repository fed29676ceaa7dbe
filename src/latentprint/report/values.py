"""Reading numbers out of a report that may lack them, and writing them for people.

A report is also read after a run was cut short, so nothing here trusts a type or a key: what is absent, not
finite or of another type is None, and None is written "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from latentprint import progress

NOT_MEASURED = "not measured"


def number(value: object) -> float | None:
    """``value`` as a finite float, or None. A bool is no measurement."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float's range
        return None


def mapping(value: object) -> dict[str, Any]:
    """``value`` when it is a JSON object (keys as text), else an empty one."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def sequence(value: object) -> list[Any]:
    """``value`` when it is a JSON array, else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def text(value: object, default: str = "") -> str:
    """``value`` as one line of text; ``default`` for None and for empty strings."""
    return " ".join(str(value).split()) or default if value is not None else default


@dataclass(frozen=True)
class Measured:
    """A number with its 95% interval, any part missing. ``n`` counts people, ``note`` names an extractor."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""

    @classmethod
    def of(cls, raw: object) -> Measured:
        """From ``{"value", "low", "high", "n", "extractor"}`` or a bare number; empty from anything else."""
        if not isinstance(raw, Mapping):
            return cls(number(raw))
        n = number(raw.get("n"))
        return cls(number(raw.get("value")), number(raw.get("low")), number(raw.get("high")),
                   None if n is None else int(n), text(raw.get("extractor")))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval, or None unless both ends are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def __bool__(self) -> bool:
        return self.value is not None


def percent(value: float | None, sign: bool = True) -> str:
    """A fraction as a percentage; one decimal near 0 and 1, where a whole number would claim none or all."""
    if value is None:
        return NOT_MEASURED
    share = abs(100 * value)
    decimals = 1 if 0.05 <= share < 1 or 99 < share < 99.95 else 0
    rounded = round(100 * value, decimals) + 0.0  # the sum turns -0.0 into 0.0
    return f"{rounded:.{decimals}f}" + "%" * sign


def plain(value: float | None) -> str:
    """A number with about three significant digits: 0.53, 0.031, 12.3, 1,240."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 3 if size < 0.1 else 2}f}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them, see `latentprint.progress.duration`."""
    return NOT_MEASURED if seconds is None else progress.duration(seconds)


def scalar(value: object) -> str:
    """Any JSON value on one line, for tables of settings."""
    if value is None or value == "" or value == [] or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(scalar(item) for item in value)
    return text(value, NOT_MEASURED)


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as ``("a.b", "text")`` pairs, in their order."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}.{index}")
    elif prefix:
        yield prefix, scalar(value) if not isinstance(value, Mapping) else "none"
