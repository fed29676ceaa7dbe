"""Where things stand on the gauge: the line from the floor to the ceiling, in percent of its drawn length.

A value v lies at ``(v - floor) / (ceiling - floor)``, so that the attack's place *is* the leak. Values beyond
either end stretch the line rather than being clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentprint.report.grades import Headline
from latentprint.report.values import Measured


@dataclass(frozen=True)
class Tick:
    """A reference under the line. ``row`` 1 is the nearer one; ``left``: its text lies left of its stem."""

    label: str
    shown: str
    at: float
    row: int

    @property
    def left(self) -> bool:
        return self.at > 50


@dataclass(frozen=True)
class Gauge:
    """Positions in percent of the drawn line, from its left end."""

    floor_at: float
    ceiling_at: float
    attack_at: float | None
    interval: tuple[float, float] | None
    ticks: tuple[Tick, ...]


def gauge(head: Headline) -> Gauge | None:
    """The gauge of a channel, or None when floor and ceiling are unknown or not in order."""
    floor, ceiling = head.floor.value, head.ceiling.value
    if floor is None or ceiling is None or floor >= ceiling:
        return None
    span = ceiling - floor
    references = {"Pseudo-label": head.pseudo_label, "Prior ceiling": head.prior_ceiling}
    known = [*_all(head.attack), *(item.value for item in references.values() if item.value is not None)]
    start, end = min(floor, *known, ceiling), max(floor, *known, ceiling)
    if not (end - start) / span < 1e6:  # the line would be all stretch: numbers of another kind got in
        return None

    def place(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    bounds = head.attack.bounds
    return Gauge(
        floor_at=place(floor),
        ceiling_at=place(ceiling),
        attack_at=None if head.attack.value is None else place(head.attack.value),
        interval=None if bounds is None else (place(min(bounds)), place(max(bounds))),
        ticks=_rows([(name, head.metric.show(item.value), place(item.value))
                     for name, item in references.items() if item.value is not None]),
    )


def _all(measured: Measured) -> list[float]:
    """Every number of a measurement that the line has to hold."""
    return [value for value in (measured.value, measured.low, measured.high) if value is not None]


def _rows(ticks: list[tuple[str, str, float]]) -> tuple[Tick, ...]:
    """Two ticks on two rows so that no stem crosses a text: texts lie towards the middle, so the tick nearer
    to it comes first."""
    ordered = sorted(ticks, key=lambda tick: abs(tick[2] - 50))
    return tuple(Tick(label, shown, at, row) for row, (label, shown, at) in enumerate(ordered, start=1))
