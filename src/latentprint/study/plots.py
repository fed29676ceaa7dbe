"""Pictures of a study: differences, fronts, curves with bands, and every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentprint.report.pareto import Point, pareto_plot
from latentprint.report.style import BLUE, INK, PALETTE, canvas, legend, rows_of_axes
from latentprint.report.values import Measured
from latentprint.stats import t_interval
from latentprint.study.definition import Study, comparisons

#: By logged value and arm: of each run its steps and values.
Curves = dict[str, dict[str, list[tuple[list[float], list[float]]]]]


def forest_plot(study: Study, summary: Mapping[str, Any], path: Path) -> None:
    """How far each arm is from the reference, and the pairs from each other, with intervals; a panel a metric."""
    names = [name for name in study.metrics if summary["contrasts"][name]]
    if not names:
        return
    arms = list(comparisons(study))
    columns = min(2, len(names))
    with canvas(path, 5.6 * columns, (0.6 + 0.26 * len(arms)) * -(-len(names) // columns) + 0.3) as figure:
        for axis, name in zip(rows_of_axes(figure, len(names), columns), names, strict=True):
            metric, found = study.metrics[name], summary["contrasts"][name]
            scale = 100 if metric.share else 1
            for place, arm in enumerate(reversed(arms)):
                row = found.get(arm)
                if row is None or row["value"] is None:
                    continue
                low, high = (row[end] if row[end] is not None else row["value"] for end in ("low", "high"))
                axis.plot([scale * low, scale * high], [place, place], color=BLUE)
                axis.plot([scale * row["value"]], [place], "o", color=BLUE, markersize=5)
            axis.axvline(0, color=INK, linewidth=0.9)
            axis.set_yticks(range(len(arms)), list(reversed(arms)))
            axis.set_ylim(-0.6, len(arms) - 0.4)
            axis.grid(axis="y", visible=False)
            axis.set_title(metric.title + (" (pp)" if metric.share else ""))
            axis.locator_params(axis="x", nbins=5)
        figure.suptitle(f"difference from {study.reference}, or as the row names it", fontsize=9)


def front_plot(study: Study, summary: Mapping[str, Any], path: Path) -> None:
    """The study's front: arms by what they keep and lose, with intervals over seeds; a colour a family of arms."""
    if not study.front:
        return
    kept, lost = study.front
    points = [Point(arm, Measured.of(own[kept]), Measured.of(own[lost]), arm.split()[0])
              for arm in study.arms if (own := summary["arms"][arm]["metrics"])[kept] and own[lost]]
    pareto_plot(points, path, study.metrics[lost].title.capitalize(), study.metrics[kept].title.capitalize())


def curves_plot(study: Study, curves: Curves, path: Path) -> None:
    """Logged values over the steps: the mean over seeds of each arm, and Student's interval as a band."""
    drawn = {name: {arm: band for arm, runs in by_arm.items() if (band := band_of(runs)) is not None}
             for name, by_arm in curves.items()}
    names = [name for name, bands in drawn.items() if bands]
    if not names:
        return
    columns = min(2, len(names))
    with canvas(path, 5.0 * columns, 2.9 * -(-len(names) // columns) + 0.5) as figure:
        labelled: dict[str, Any] = {}
        for axis, name in zip(rows_of_axes(figure, len(names), columns), names, strict=True):
            for place, arm in enumerate(study.arms):
                if arm not in drawn[name]:
                    continue
                steps, centre, low, high = drawn[name][arm]
                colour, line = PALETTE[place % len(PALETTE)], "-" if place < len(PALETTE) else "--"
                labelled[arm] = axis.plot(steps, centre, line, color=colour, marker="o", markersize=2.5)[0]
                axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.set_title(study.curves[name])
            axis.set_xlabel("step")
            means = np.concatenate([centre for _, centre, _, _ in drawn[name].values()])
            room = 0.3 * float(np.ptp(means)) or 0.1
            axis.set_ylim(means.min() - room, means.max() + room)  # wide bands of few runs would hide the means
        legend(figure, list(labelled.values()), list(labelled))


def band_of(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[NDArray[np.float64], ...] | None:
    """Steps that all runs share, and there mean and interval ``(n,)`` over runs; None where they share none."""
    shared = sorted(set.intersection(*(set(steps) for steps, _ in runs))) if runs else []
    if not shared:
        return None
    at = [dict(zip(*run, strict=True)) for run in runs]
    found = [t_interval([values[step] for values in at]) for step in shared]
    centre = np.array([interval.value for interval in found])
    low, high = (np.array([getattr(interval, end) for interval in found]) for end in ("low", "high"))
    return np.array(shared), centre, np.where(np.isnan(low), centre, low), np.where(np.isnan(high), centre, high)


def arms_plot(study: Study, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every run as a dot, arms side by side; one seed has one colour and a line through the arms."""
    names = [name for name in study.metrics if any(row[name] is not None for row in rows)]
    if not names:
        return
    arms = list(study.arms)
    columns = min(2, len(names))
    with canvas(path, columns * max(4.5, 0.45 * len(arms) + 1.8), 2.7 * -(-len(names) // columns)) as figure:
        for axis, name in zip(rows_of_axes(figure, len(names), columns), names, strict=True):
            scale = 100 if study.metrics[name].share else 1
            for seed in range(study.seeds):
                found = {row["arm"]: row[name] for row in rows if row["seed"] == seed}
                values = [math.nan if found.get(arm) is None else scale * found[arm] for arm in arms]
                axis.plot(np.arange(len(arms)), values, "o-", color=PALETTE[seed % len(PALETTE)], markersize=4.5,
                          linewidth=0.8, alpha=0.85, label=f"seed {seed}")
            axis.set_xticks(range(len(arms)), arms, rotation=30 if len(arms) > 3 else 0,
                            ha="right" if len(arms) > 3 else "center")
            axis.set_title(study.metrics[name].title + (" (percent)" if study.metrics[name].share else ""))
        legend(figure, *axis.get_legend_handles_labels())
