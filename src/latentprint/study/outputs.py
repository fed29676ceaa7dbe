"""Tables of a study for a thesis chapter: CSV, LaTeX (booktabs), Markdown, and a page with plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentprint.engine.state import write_text
from latentprint.report.html import page
from latentprint.report.pictures import load
from latentprint.report.style import BLUE, INK, PALETTE, canvas, rows_of_axes
from latentprint.study.definition import Metric, Study

_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def write_tables(study: Study, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], folder: Path) -> None:
    """``rows.csv``, ``summary.csv``, ``table.md``, ``table.tex``, ``forest.png``, ``arms.png`` and ``study.html``."""
    write_text(folder / "rows.csv", as_csv(rows))
    head, body = table(study, summary)
    write_text(folder / "summary.csv", as_csv([dict(zip(head, line, strict=True)) for line in body]))
    write_text(folder / "table.md", markdown(head, body))
    write_text(folder / "table.tex", latex(study, head, body))
    forest_plot(study, summary, folder / "forest.png")
    arms_plot(study, rows, folder / "arms.png")
    pictures = {name: load(folder, name) for name in ("forest.png", "arms.png")}
    write_text(folder / "study.html", page("study.html.j2", study=study, head=head, body=body, summary=summary,
                                           pictures={name: found for name, found in pictures.items() if found},
                                           failures=[row for row in rows if row["status"] == "failed"],
                                           missing=sum(row["status"] == "missing" for row in rows)))


def table(study: Study, summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and a line an arm: runs, each metric with its interval, and how it differs from the reference."""
    head = ["arm", "runs"]
    for metric in study.metrics.values():
        head += [metric.title, f"{metric.title}, less {study.reference}"]
    return head, [_line(study, summary, arm) for arm in study.arms]


def _line(study: Study, summary: Mapping[str, Any], arm: str) -> list[str]:
    own = summary["arms"][arm]
    cells = [arm, f"{own['runs']['done']} of {own['runs']['done'] + own['runs']['failed']}"]
    for name, metric in study.metrics.items():
        cells.append(_interval(metric, own["metrics"][name], signed=False))
        found = summary["contrasts"][name].get(arm)
        p = "" if found is None else f", p {found['p_holm']:.2g}"
        cells.append(_interval(metric, found, signed=True) + p)
    return cells


def _interval(metric: Metric, found: Mapping[str, Any] | None, signed: bool) -> str:
    if found is None or found["value"] is None:
        return "–" if not signed else ""
    ends = (f" ({_number(metric, found['low'])} to {_number(metric, found['high'])})"
            if found["low"] is not None and found["high"] is not None else "")
    reached = f", {found['reached']} of {found['n']} got there" if "reached" in found else ""
    return f"{_number(metric, found['value'], signed)}{ends}{reached}"


def _number(metric: Metric, value: float, signed: bool = False) -> str:
    plus = "+" if signed else ""
    if metric.share:
        return f"{100 * value:{plus}.1f}"
    size = 0 if metric.logged else 3
    return f"{value:{plus}.{size}f}"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a head; what is None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return file.getvalue()


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table whose cells cannot break it."""
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(study: Study, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A ``table`` with booktabs' rules; a percentage is said in the caption."""
    rows = " \\\\\n".join(" & ".join(map(tex, line)) for line in body)
    shares = [metric.title for metric in study.metrics.values() if metric.share]
    caption = study.question + (f" In percent: {', '.join(shares)}." if shares else "")
    return (f"\\begin{{table}}\n\\centering\n\\caption{{{tex(caption)}}}\n\\label{{tab:{study.name}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n{' & '.join(map(tex, head))} \\\\\n\\midrule\n"
            f"{rows} \\\\\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n")


def tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_TEX.get(letter, letter) for letter in text).replace("–", "--")


def forest_plot(study: Study, summary: Mapping[str, Any], path: Path) -> None:
    """How far each arm is from the reference, with its interval; a panel a metric."""
    names = [name for name in study.metrics if summary["contrasts"][name]]
    if not names:
        return
    arms = [arm for arm in study.arms if arm != study.reference]
    with canvas(path, 7.2, (0.5 + 0.28 * len(arms)) * len(names) + 0.3) as figure:
        for axis, name in zip(rows_of_axes(figure, len(names), 1), names, strict=True):
            metric, found = study.metrics[name], summary["contrasts"][name]
            scale = 100 if metric.share else 1
            for place, arm in enumerate(reversed(arms)):
                row = found.get(arm)
                if row is None:
                    continue
                low, high = (row[end] if row[end] is not None else row["value"] for end in ("low", "high"))
                axis.plot([scale * low, scale * high], [place, place], color=BLUE)
                axis.plot([scale * row["value"]], [place], "o", color=BLUE, markersize=5)
            axis.axvline(0, color=INK, linewidth=0.9)
            axis.set_yticks(range(len(arms)), list(reversed(arms)))
            axis.set_ylim(-0.6, len(arms) - 0.4)
            axis.grid(axis="y", visible=False)
            axis.set_title(f"{metric.title}, less {study.reference}" + (" (points)" if metric.share else ""))


def arms_plot(study: Study, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every run as a dot, arms side by side; one seed has one colour and a line through the arms."""
    names = [name for name in study.metrics if any(row[name] is not None for row in rows)]
    if not names:
        return
    arms = list(study.arms)
    with canvas(path, max(5.0, 1.1 * len(arms) + 1.5), 2.5 * len(names)) as figure:
        for axis, name in zip(rows_of_axes(figure, len(names), 1), names, strict=True):
            scale = 100 if study.metrics[name].share else 1
            for seed in range(study.seeds):
                found = {row["arm"]: row[name] for row in rows if row["seed"] == seed}
                values = [math.nan if found.get(arm) is None else scale * found[arm] for arm in arms]
                axis.plot(np.arange(len(arms)), values, "o-", color=PALETTE[seed % len(PALETTE)], markersize=4.5,
                          linewidth=0.8, alpha=0.85, label=f"seed {seed}")
            axis.set_xticks(range(len(arms)), arms, rotation=20 if len(arms) > 4 else 0,
                            ha="right" if len(arms) > 4 else "center")
            axis.set_title(study.metrics[name].title + (" (percent)" if study.metrics[name].share else ""))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=min(study.seeds, 6))
