"""From the runs of a study to rows, statistics and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentprint.engine.state import write_text
from latentprint.metrics.matched import Point, mean_gap
from latentprint.report.figures import read_metrics
from latentprint.report.values import mapping, number
from latentprint.stats import bootstrap_by_identity, holm, paired, sign_flip, success_rate, t_interval, time_to_threshold
from latentprint.study.definition import Metric, Study, Take, comparisons, matched
from latentprint.study.outputs import write_all
from latentprint.study.plots import Curves
from latentprint.study.tasks import FAILURE, Task, tasks_of

Row = dict[str, Any]
SUMMARY = "summary.json"
#: A logged value this many times the median is a spike.
SPIKE = 10


def write_outputs(study: Study, folder: Path) -> dict[str, Any]:
    """``summary.json`` and the tables beside it, from whatever has ended; returns the summary."""
    rows = collect(study, folder)
    summary = summarise(study, rows)
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_all(study, rows, summary, curves_of(study, folder), folder)
    return summary


def collect(study: Study, folder: Path) -> list[Row]:
    """A row a run, arm by arm: ``arm``, ``seed``, ``status`` (done, failed, missing) and every metric, None without."""
    tasks = sorted(tasks_of(study, folder)[1], key=lambda task: (list(study.arms).index(task.arm), task.seed))
    return [_row(study, task) for task in tasks]


def curves_of(study: Study, folder: Path) -> Curves:
    """What the study's curves need: of each logged value, by arm, steps and values of every run that ended well."""
    found: Curves = {name: {arm: [] for arm in study.arms} for name in study.curves}
    for task in tasks_of(study, folder)[1] if study.curves else []:
        if (task.out / "report.json").is_file():
            logged = read_metrics(task.out / "metrics.jsonl")
            for name, by_arm in found.items():
                by_arm[task.arm].append(series(logged, name, study.phases)[:2])
    return found


def _row(study: Study, task: Task) -> Row:
    row: Row = {"arm": task.arm, "seed": task.seed, "status": "missing", "error": ""}
    metrics: dict[str, float | None] = dict.fromkeys(study.metrics)
    watched: dict[str, float | None] = {}
    if (task.out / "report.json").is_file():
        section = mapping(json.loads((task.out / "report.json").read_text())["channels"][study.command.split()[1]])
        logged = read_metrics(task.out / "metrics.jsonl")
        row["status"] = "done"
        for name, metric in study.metrics.items():
            if metric.path:
                metrics[name] = at_path(section, metric.path)
                continue
            steps, values, end = series(logged, metric.logged, study.phases)
            if metric.timed:
                metrics[name], watched[name] = reached(steps, values, metric), end
            else:
                metrics[name] = taken(steps, values, metric.take)
    elif (task.out / FAILURE).is_file():
        row |= {"status": "failed", "error": json.loads((task.out / FAILURE).read_text())["error"]}
    return {**row, **metrics, **{f"{name} watched": end for name, end in watched.items()}}


def at_path(section: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path; of an interval its value."""
    found: Any = section
    for part in path.split("."):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            found = mapping(found).get(part)
    return number(mapping(found).get("value") if isinstance(found, Mapping) else found)


def series(rows: Sequence[Mapping[str, Any]], name: str, phases: str) -> tuple[list[float], list[float], float]:
    """The steps at which a value was logged, the values, and the steps that were watched.

    Steps count through the phases that begin with ``phases``, whose rows are in order; ``-look`` rows count as their
    phase's. Of several values at a step the last is taken.
    """
    done, current, last = 0.0, "", 0.0
    found: dict[float, float] = {}
    for row in rows:
        phase = str(row["phase"]).removesuffix("-look")
        if not phase.startswith(phases):
            continue
        if phase != current:
            done, current, last = done + last, phase, 0.0
        last = max(last, float(row["step"]))
        if (value := number(row.get(name))) is not None:
            found[done + float(row["step"])] = value
    return list(found), list(found.values()), done + last


def reached(steps: Sequence[float], values: Sequence[float], metric: Metric) -> float | None:
    """The step of the first value that passes the bound; None: never."""
    low = -math.inf if metric.at_least is None else metric.at_least
    high = math.inf if metric.at_most is None else metric.at_most
    return next((step for step, value in zip(steps, values, strict=True) if low <= value <= high), None)


def taken(steps: Sequence[float], values: Sequence[float], take: Take) -> float | None:
    """What a metric takes of logged values, other than a time; None where there are too few."""
    if not values:
        return None
    if take == "spikes":
        return float(np.sum(np.asarray(values) > SPIKE * np.median(values)))
    if take == "variance":
        late = [value for step, value in zip(steps, values, strict=True) if step > steps[-1] / 2]
        return float(np.var(late, ddof=1)) if len(late) > 1 else None
    if take == "ratio":
        part = max(1, len(values) // 4)
        begun = float(np.mean(values[:part]))
        return float(np.mean(values[-part:])) / begun if begun else None
    return values[0] if take == "first" else values[-1]


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
            "shares": [name for name, metric in study.metrics.items() if metric.share]}


def _runs(rows: Sequence[Row]) -> dict[str, Any]:
    ended = [row for row in rows if row["status"] != "missing"]
    done = sum(row["status"] == "done" for row in ended)
    return {"done": done, "failed": len(ended) - done, "missing": len(rows) - len(ended),
            "success": success_rate(done, len(ended)).to_json() if ended else None}


def _metric(metric: Metric, name: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    done = [row for row in rows if row["status"] == "done"]
    if metric.timed:
        return _time([row[name] for row in done], [row[f"{name} watched"] for row in done])
    values = [row[name] for row in done if row[name] is not None]
    if not values:
        return None
    n, mean = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    boot = bootstrap_by_identity(values, range(n)).to_json()  # the seeds are what is drawn again
    return {**t_interval(values).to_json(), "sd": spread, "bootstrap": [boot["low"], boot["high"]]}


def _time(times: Sequence[float | None], watched: Sequence[float]) -> dict[str, Any] | None:
    if not times:
        return None
    found = time_to_threshold(times, watched)
    return {**found.restricted.to_json(), "sd": None, "reached": found.reached,
            "median": found.median if math.isfinite(found.median) else None}


def _contrasts(study: Study, name: str, by_arm: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """By comparison; a time is compared as long as it was watched."""
    known = {arm: {row["seed"]: value for row in rows if (value := _shown(row, name)) is not None}
             for arm, rows in by_arm.items()}
    found: dict[str, dict[str, Any]] = {}
    for key, (first, second) in comparisons(study).items():
        own, other = known[first], known[second]
        shared = sorted(own.keys() & other.keys())
        if not shared:
            continue
        result = paired([other[seed] for seed in shared], [own[seed] for seed in shared])
        found[key] = {**result.difference.to_json(), "effect": _finite(result.effect), "p": result.p_signs,
                      "p_wilcoxon": _finite(result.p_wilcoxon)}
    adjusted = holm({key: row["p"] for key, row in found.items()})
    return {key: {**row, "p_holm": adjusted[key]} for key, row in found.items()}


def _matched(study: Study, name: str, by_arm: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """By pair of families the mean gap of a metric at equal values of what the front keeps; seeds whose curves share no
    such value are left out."""
    if not study.front or name == study.front[0]:
        return {}
    at = {arm: {row["seed"]: Point(kept, value) for row in rows
                if (kept := _shown(row, study.front[0])) is not None and (value := _shown(row, name)) is not None}
          for arm, rows in by_arm.items()}

    def curve(family: str, seed: int) -> list[Point]:
        return [at[arm][seed] for arm in (study.reference, *study.families[family]) if seed in at[arm]]

    found = {}
    for key, (family, other) in matched(study).items():
        gaps = [mean_gap(curve(family, seed), curve(other, seed)) for seed in range(study.seeds)]
        if known := [gap for gap in gaps if gap is not None]:
            found[key] = {**t_interval(known).to_json(), "p": sign_flip(known)}
    adjusted = holm({key: row["p"] for key, row in found.items()})
    return {key: {**row, "p_holm": adjusted[key]} for key, row in found.items()}


def _shown(row: Row, name: str) -> float | None:
    value = row[name] if row[name] is not None else row.get(f"{name} watched")
    return value if row["status"] == "done" else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
