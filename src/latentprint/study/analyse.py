"""From the rows of a study to statistics over seeds, and all that is written of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentprint import stats
from latentprint.metrics.matched import Point, mean_gap
from latentprint.study.definition import Metric, Study, comparisons, matched
from latentprint.study.outputs import write_all
from latentprint.study.rows import Row, collect, curves_of


def write_outputs(study: Study, folder: Path) -> dict[str, Any]:
    """``summary.json`` and the tables beside it, from whatever has ended; returns the summary."""
    rows = collect(study, folder)
    summary = summarise(study, rows)
    write_all(study, rows, summary, curves_of(study, folder), folder)
    return summary


def summarise(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """Arms: success rate of their runs and each metric. Contrasts: each arm less the reference, and the study's pairs,
    over shared seeds. Matched: each family less the first where both keep as much (see ``metrics.matched``), by seed.

    A failed run counts as a failure and has no metrics; nothing is filled in for it. p-values are corrected by Holm
    over the arms of a metric.
    """
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in study.arms}
    arms = {arm: {"runs": _runs(own), "metrics": {name: _metric(metric, name, own)
                                                  for name, metric in study.metrics.items()}}
            for arm, own in by_arm.items()}
    contrasts = {name: _contrasts(study, name, by_arm) for name in study.metrics}
    return {"schema": 1, "study": study.name, "question": study.question, "command": study.command,
            "preset": study.preset, "reference": study.reference, "seeds": study.seeds, "arms": arms,
            "contrasts": contrasts, "matched": {name: _matched(study, name, by_arm) for name in study.metrics},
            "titles": {name: metric.title for name, metric in study.metrics.items()},
            "shares": [name for name, metric in study.metrics.items() if metric.share]}


def _runs(rows: Sequence[Row]) -> dict[str, Any]:
    counts = {status: sum(row["status"] == status for row in rows)
              for status in ("done", "failed", "broken", "missing")}
    ended = counts["done"] + counts["failed"]
    return {**counts, "success": stats.success_rate(counts["done"], ended).to_json() if ended else None}


def _metric(metric: Metric, name: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    done = [row for row in rows if row["status"] == "done"]
    if metric.timed:
        return _time([row[name] for row in done], [row[f"{name} watched"] for row in done])
    values = [row[name] for row in done if row[name] is not None]
    if not values:
        return None
    n, mean = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    if metric.take == "spikes" and metric.logged:
        return {**stats.count_interval(values).to_json(), "sd": spread}
    return {**stats.t_interval(values, bounds=_holding(metric.bounds, values)).to_json(), "sd": spread}


def _holding(bounds: tuple[float, float], values: Sequence[float]) -> tuple[float, float]:
    """The bounds; without an end that a value exceeds, as that of a share which is no rate."""
    low, high = bounds
    return (low if min(values) >= low else -math.inf, high if max(values) <= high else math.inf)


def _apart(bounds: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a difference of two values within ``bounds``."""
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


def _time(times: Sequence[float | None], watched: Sequence[float]) -> dict[str, Any] | None:
    if not times:
        return None
    found = stats.time_to_threshold(times, watched)
    return {**found.restricted.to_json(), "sd": None, "reached": found.reached, "horizon": found.horizon,
            "median": found.median if math.isfinite(found.median) else None}


def _contrasts(study: Study, name: str, by_arm: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """By comparison."""
    metric, known = study.metrics[name], _known(name, by_arm)
    found: dict[str, dict[str, Any]] = {}
    for key, (first, second) in comparisons(study).items():
        own, other = known[first], known[second]
        shared = sorted(own.keys() & other.keys())
        if not shared:
            continue
        pairs = [other[seed] for seed in shared], [own[seed] for seed in shared]
        found[key] = (_times_apart(by_arm, name, first, second, shared) if metric.timed else
                      _difference(*pairs, _apart(_holding(metric.bounds, [*pairs[0], *pairs[1]]))))
    adjusted = stats.holm({key: math.nan if row["p"] is None else row["p"] for key, row in found.items()})
    return {key: {**row, "p_holm": _finite(adjusted[key])} for key, row in found.items()}


def _known(name: str, by_arm: Mapping[str, Sequence[Row]]) -> dict[str, dict[int, float]]:
    """By arm and seed the value; a time that was not reached counts as long as it was watched."""
    return {arm: {row["seed"]: value for row in rows if (value := _shown(row, name)) is not None}
            for arm, rows in by_arm.items()}


def _difference(first: Sequence[float], second: Sequence[float], bounds: tuple[float, float]) -> dict[str, Any]:
    result = stats.paired(first, second, bounds=bounds)
    return {**result.difference.to_json(), "effect": _finite(result.effect), "p": result.p_signs,
            "p_wilcoxon": _finite(result.p_wilcoxon)}


def _times_apart(by_arm: Mapping[str, Sequence[Row]], name: str, own: str, other: str,
                 seeds: Sequence[int]) -> dict[str, Any]:
    """Difference of two arms' times up to the horizon, the shortest that one of their runs was watched; without a value
    where no run of either got there."""
    rows = {arm: {row["seed"]: row for row in by_arm[arm]} for arm in (own, other)}
    runs = [rows[arm][seed] for arm in (own, other) for seed in seeds]
    horizon = min(row[f"{name} watched"] for row in runs)
    reached = sum(row[name] is not None and row[name] <= horizon for row in runs)
    facts = {"reached": reached, "runs": len(runs), "horizon": horizon}
    if not reached:
        return {**dict.fromkeys(("value", "low", "high", "effect", "p", "p_wilcoxon")), "n": len(seeds), **facts}
    first, second = ([horizon if row[name] is None else min(row[name], horizon)
                      for row in (rows[arm][seed] for seed in seeds)] for arm in (other, own))
    return {**_difference(first, second, (-horizon, horizon)), **facts}


def _matched(study: Study, name: str, by_arm: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """By pair of families the mean gap of a metric at equal values of what the front keeps; seeds whose curves share no
    such value are left out."""
    if not study.families or name == study.front[0]:
        return {}
    at = {arm: {row["seed"]: Point(kept, value) for row in rows
                if (kept := _shown(row, study.front[0])) is not None and (value := _shown(row, name)) is not None}
          for arm, rows in by_arm.items()}

    def curve(family: str, seed: int) -> list[Point]:
        return [at[arm][seed] for arm in (study.reference, *study.families[family]) if seed in at[arm]]

    found: dict[str, dict[str, Any]] = {}
    for key, (family, other) in matched(study).items():
        gaps = [mean_gap(curve(family, seed), curve(other, seed)) for seed in range(study.seeds)]
        if known := [gap for gap in gaps if gap is not None]:
            values = [point.value for points in at.values() for point in points.values()]
            bounds = _apart(_holding(study.metrics[name].bounds, values))
            found[key] = {**stats.t_interval(known, bounds=bounds).to_json(), "p": stats.sign_flip(known)}
    adjusted = stats.holm({key: row["p"] for key, row in found.items()})
    return {key: {**row, "p_holm": adjusted[key]} for key, row in found.items()}


def _shown(row: Row, name: str) -> float | None:
    value = row[name] if row[name] is not None else row.get(f"{name} watched")
    return value if row["status"] == "done" else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
