"""Accuracy against leak of several victims, and the Pareto front: those that no other dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentprint.report.style import BLUE, INK, PALETTE, canvas
from latentprint.report.values import Measured

#: A leak that is less by no more than this share is not worth a defence.
MATTERS = 0.05
#: Names of points that are nearer than this share of the picture, in both directions, would overlap.
NEAR = 0.08
#: Up to so many points carry their names; more of them are numbered, beside a list.
NAMED = 9


@dataclass(frozen=True)
class Point:
    """A victim: its accuracy and what it gives away, both shares with intervals. ``group`` decides the colour."""

    name: str
    accuracy: Measured
    leak: Measured
    group: str = ""

    @property
    def known(self) -> bool:
        return self.accuracy.value is not None and self.leak.value is not None


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point betters in accuracy without leaking more, by rising accuracy; of equals the first."""
    kept: list[Point] = []
    least = float("inf")
    for point in sorted((p for p in points if p.known), key=_by_accuracy):
        assert point.leak.value is not None
        if point.leak.value < least:
            kept.append(point)
            least = point.leak.value
    return kept[::-1]


def recommended(points: Sequence[Point], undefended: Point, cost: float) -> Point | None:
    """The least leaking point whose accuracy is within ``cost``, a share, of the undefended one; or None."""
    if undefended.accuracy.value is None:
        return None
    bound = undefended.accuracy.value - cost
    fit = [p for p in points if p.known and p.accuracy.value is not None and p.accuracy.value >= bound]
    return min(fit, key=lambda p: p.leak.value or 0.0, default=None)


def advice(points: Sequence[Point], cost: float, kept: str) -> dict[str, str] | None:
    """Which to take and why, for report.json; see `recommended`. The first point is what the cost is counted against.

    Args:
        kept: what may cost, in words: "accuracy".
    """
    best = recommended(points, points[0], cost)
    if best is None:
        return None
    allowed = f"{100 * cost:g} {'point' if cost == 0.01 else 'points'}"
    if best is not points[0] and (points[0].leak.value or 0.0) - (best.leak.value or 0.0) < MATTERS:
        return {"name": points[0].name, "because": (
            f"nothing within {allowed} of its {kept} makes a difference; what leaks least, {best.name}, still leaks "
            f"{100 * (best.leak.value or 0.0):.0f}%")}
    because = (f"nothing else leaks less at a cost of at most {allowed} of {kept}" if best is points[0] else
               f"of those within {allowed} of the {kept} of {points[0].name}, the one that leaks least")
    return {"name": best.name, "because": because}


def pareto_plot(points: Sequence[Point], path: Path, leak_label: str, accuracy_label: str = "Accuracy") -> bool:
    """Accuracy upwards, leak to the right, intervals as crosses, the front as a line.

    Returns:
        whether there was anything to draw.
    """
    drawn = [point for point in points if point.known]
    if not drawn:
        return False
    groups = list(dict.fromkeys(point.group for point in drawn))
    colours: Mapping[str, str] = {group: PALETTE[i % len(PALETTE)] for i, group in enumerate(groups)}
    crowded = len(drawn) > NAMED or len(_clusters(drawn)) < len(drawn)
    with canvas(path, 9.6 if crowded else 7.4, max(4.6, 0.24 * len(drawn)) if crowded else 4.6) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        best = front(drawn)
        axes.plot([100 * (p.leak.value or 0) for p in best], [100 * (p.accuracy.value or 0) for p in best], color=INK,
                  linewidth=1, linestyle="--", zorder=1)
        for number, point in enumerate(drawn, 1):
            x, y = 100 * (point.leak.value or 0), 100 * (point.accuracy.value or 0)
            axes.errorbar(x, y, _arms(point.accuracy), _arms(point.leak), fmt="o", markersize=6,
                          color=colours.get(point.group, BLUE), elinewidth=1, capsize=2,
                          label=f"{number}  {point.name}")
        for cluster in _clusters(drawn):
            named = ranges([drawn.index(point) + 1 for point in cluster]) if crowded else cluster[0].name
            at = max(cluster, key=lambda point: point.leak.value or 0.0)
            axes.annotate(named, (100 * (at.leak.value or 0), 100 * (at.accuracy.value or 0)), xytext=(7, -5), va="top",
                          textcoords="offset points", fontsize=9.5, annotation_clip=False)  # the front rises: below it
        if crowded:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9.5, borderaxespad=0.0)
        axes.set_xlabel(f"{leak_label}, %  (less is safer)")
        axes.set_ylabel(f"{accuracy_label}, %")
        axes.margins(x=0.12, y=0.12)
    return True


def _clusters(points: Sequence[Point]) -> list[list[Point]]:
    """Points whose names would be printed over each other, together."""
    found: list[list[Point]] = []
    for point in points:
        near = [cluster for cluster in found if any(_overlap(point, other, points) for other in cluster)]
        found = [cluster for cluster in found if cluster not in near] + [[*(p for c in near for p in c), point]]
    return found


def ranges(numbers: Sequence[int]) -> str:
    """``1–3, 5`` of 1, 2, 3 and 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _overlap(one: Point, other: Point, among: Sequence[Point]) -> bool:
    """Whether names beside two known points would be printed over each other."""
    def apart(shown: Sequence[Measured], a: float | None, b: float | None) -> float:
        """As a fraction of the plot, which holds the intervals too."""
        known = [value for each in shown for value in (each.value, each.low, each.high) if value is not None]
        span = max(known) - min(known)
        return abs((a or 0.0) - (b or 0.0)) / span if span else 0.0

    beside = apart([p.leak for p in among], one.leak.value, other.leak.value)
    above = apart([p.accuracy for p in among], one.accuracy.value, other.accuracy.value)
    return beside < 3 * NEAR and above < NEAR  # names are wider than high


def _by_accuracy(point: Point) -> tuple[float, float]:
    return -(point.accuracy.value or 0.0), point.leak.value or 0.0


def _arms(measured: Measured) -> list[list[float]] | None:
    """Lengths of the interval's arms in percent, as matplotlib wants them."""
    if measured.bounds is None or measured.value is None:
        return None
    low, high = measured.bounds
    return [[100 * max(0.0, measured.value - low)], [100 * max(0.0, high - measured.value)]]
