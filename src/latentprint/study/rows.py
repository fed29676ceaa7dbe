"""From the run directories of a study to a row a run: numbers of its report, and what its log says of the way there."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentprint.report.figures import read_metrics
from latentprint.report.values import mapping, number
from latentprint.study.definition import Metric, Study, Take
from latentprint.study.plots import Curves
from latentprint.study.tasks import Task, tasks_of

Row = dict[str, Any]
#: A logged value this many times the median is a spike.
SPIKE = 10


def collect(study: Study, folder: Path) -> list[Row]:
    """A row a run, arm by arm: ``arm``, ``seed``, ``status`` and every metric, None without.

    A status is ``done``, ``failed`` (the training), ``broken`` (it never ran properly: settings, memory, files) or
    ``missing``.
    """
    tasks = sorted(tasks_of(study, folder)[1], key=lambda task: (list(study.arms).index(task.arm), task.seed))
    return [_row(study, task) for task in tasks]


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``rows.csv`` that `collect` filled."""
    def value(key: str, text: str) -> Any:
        if key in ("arm", "status", "error"):
            return text
        return int(text) if key == "seed" else float(text) if text else None

    with path.open(newline="") as file:
        return [{key: value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]


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
            steps, values, end = series(logged, metric.logged, metric.phases or study.phases, metric.skip)
            if metric.timed:
                metrics[name], watched[name] = reached(steps, values, metric), end
            else:
                metrics[name] = taken(steps, values, metric.take)
    elif failure := task.failure:
        row |= {"status": "failed" if failure["kind"] == "run" else "broken", "error": failure["error"]}
    return {**row, **metrics, **{f"{name} watched": end for name, end in watched.items()}}


def at_path(section: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path; of an interval its value. A name in the report may hold dots of its own."""
    found = next(_at(section, path), None)
    return number(found.get("value") if isinstance(found, Mapping) else found)


def _at(node: Any, path: str) -> Iterator[Any]:
    """What lies at a dotted path, whichever of its dots belong to names."""
    if not path:
        yield node
        return
    entries = {str(i): item for i, item in enumerate(node)} if isinstance(node, list) else mapping(node)
    for key, item in entries.items():
        if f"{path}.".startswith(f"{key}."):
            yield from _at(item, path[len(key) + 1:])


def series(rows: Sequence[Mapping[str, Any]], name: str, phases: str,
           skip: float = 0.0) -> tuple[list[float], list[float], float]:
    """The steps at which a value was logged, the values, and the steps that were watched.

    Steps count through the phases that begin with ``phases``, whose rows are in order; ``-look`` rows count as their
    phase's. Of several values at a step the last is taken; those of the first steps, a share ``skip`` of all, are left
    out.
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
    end = done + last
    kept = {step: value for step, value in found.items() if step > skip * end or skip == 0}
    return list(kept), list(kept.values()), end


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
