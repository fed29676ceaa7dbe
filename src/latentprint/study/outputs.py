"""All that a study writes: tables, pictures and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentprint.engine.state import write_text
from latentprint.report.conclusive import reasons
from latentprint.report.html import page
from latentprint.report.pictures import load
from latentprint.report.values import mapping
from latentprint.study.definition import Study
from latentprint.study.plots import Curves, arms_plot, curves_plot, forest_plot, front_plot
from latentprint.study.tables import as_csv, latex, section, tables, tidy
from latentprint.study.tasks import tasks_of

SUMMARY = "summary.json"
PICTURES = {"forest.png": "Differences", "front.png": "What is kept, and what is lost", "curves.png": "Over the steps",
            "arms.png": "Every run"}


def write_all(study: Study, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], curves: Curves,
              folder: Path) -> None:
    """``rows.csv``, ``summary.csv``, ``table.md``, ``table.tex``, `PICTURES` as far as there is something to draw, and
    ``study.html``."""
    found = tables(study, summary)
    write_text(folder / "rows.csv", as_csv(rows))
    write_text(folder / "table.md", section(study, summary))
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    write_statistics(study, summary, folder)
    curves_plot(study, curves, folder / "curves.png")
    arms_plot(study, rows, folder / "arms.png")
    pictures = [(title, picture) for name, title in PICTURES.items() if (picture := load(folder, name))]
    write_text(folder / "study.html", page("study.html.j2", study=study, tables=found, pictures=pictures,
                                           broken=[row for row in rows if row["status"] == "broken"],
                                           inconclusive=inconclusive(study, folder),
                                           failures=[row for row in rows if row["status"] == "failed"],
                                           missing=sum(row["status"] == "missing" for row in rows)))


def write_statistics(study: Study, summary: Mapping[str, Any], folder: Path) -> None:
    """All that follows from a summary alone: ``summary.json``, ``summary.csv``, ``table.tex``, ``forest.png`` and
    ``front.png``."""
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_text(folder / "summary.csv", as_csv(tidy(study, summary)))
    write_text(folder / "table.tex", latex(study, tables(study, summary)))
    forest_plot(study, summary, folder / "forest.png")
    front_plot(study, summary, folder / "front.png")


def inconclusive(study: Study, folder: Path) -> dict[str, list[str]]:
    """By arm a line for each run whose audit could not have seen a leak: its seed and why."""
    found: dict[str, list[str]] = {}
    for task in tasks_of(study, folder)[1]:
        file = task.out / "report.json"
        if file.is_file():
            section = mapping(mapping(json.loads(file.read_text())["channels"]).get(study.command.split()[1]))
            if why := reasons(section):
                found.setdefault(task.arm, []).append(f"seed {task.seed}: {why[0].message}")
    return {arm: found[arm] for arm in study.arms if arm in found}
