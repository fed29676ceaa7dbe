"""Tables of a study for a thesis chapter: CSV, LaTeX (booktabs), Markdown, and a page with plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentprint.engine.state import write_text
from latentprint.report.html import page
from latentprint.report.pareto import Point, pareto_plot
from latentprint.report.pictures import load
from latentprint.report.style import BLUE, INK, PALETTE, canvas, rows_of_axes
from latentprint.report.values import Measured
from latentprint.stats import t_interval
from latentprint.study.definition import Metric, Study, comparisons

#: By logged value and arm: of each run its steps and values.
Curves = dict[str, dict[str, list[tuple[list[float], list[float]]]]]

_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def write_tables(study: Study, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], curves: Curves,
                 folder: Path) -> None:
    """``rows.csv``, ``summary.csv``, ``table.md``, ``table.tex``, the pictures that there is something for, and
    ``study.html``."""
    write_text(folder / "rows.csv", as_csv(rows))
    head, body = table(study, summary)
    write_text(folder / "summary.csv", as_csv([dict(zip(head, line, strict=True)) for line in body]))
    write_text(folder / "table.md", markdown(head, body))
    write_text(folder / "table.tex", latex(study, head, body))
    titles = {"forest.png": "Differences", "front.png": "What is kept, and what is lost",
              "curves.png": "Over the steps", "arms.png": "Every run"}
    for name in titles:
        (folder / name).unlink(missing_ok=True)
    forest_plot(study, summary, folder / "forest.png")
    front_plot(study, summary, folder / "front.png")
    curves_plot(study, curves, folder / "curves.png")
    arms_plot(study, rows, folder / "arms.png")
    pictures = [(title, found) for name, title in titles.items() if (found := load(folder, name))]
    write_text(folder / "study.html", page("study.html.j2", study=study, head=head, body=body, summary=summary,
                                           pictures=pictures,
                                           failures=[row for row in rows if row["status"] == "failed"],
                                           missing=sum(row["status"] == "missing" for row in rows)))


def table(study: Study, summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head, and a line an arm and a further comparison.

    Of an arm its runs, each metric with its interval, and how that differs from the reference's.
    """
    head = ["arm", "runs"]
    for metric in study.metrics.values():
        head += [metric.title, f"{metric.title}: difference"]
    further = [key for key in comparisons(study) if key not in study.arms]
    return head, [_line(study, summary, key) for key in [*study.arms, *further]]


def _line(study: Study, summary: Mapping[str, Any], key: str) -> list[str]:
    own = summary["arms"].get(key)
    cells = [key, f"{own['runs']['done']} of {own['runs']['done'] + own['runs']['failed']}" if own else ""]
    for name, metric in study.metrics.items():
        cells.append(_interval(metric, own["metrics"][name], signed=False) if own else "")
        found = summary["contrasts"][name].get(key)
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
    if metric.timed:
        return f"{value:{plus}.0f}"
    return f"{value:{plus}.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:{plus}.2g}"


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
                if row is None:
                    continue
                low, high = (row[end] if row[end] is not None else row["value"] for end in ("low", "high"))
                axis.plot([scale * low, scale * high], [place, place], color=BLUE)
                axis.plot([scale * row["value"]], [place], "o", color=BLUE, markersize=5)
            axis.axvline(0, color=INK, linewidth=0.9)
            axis.set_yticks(range(len(arms)), list(reversed(arms)))
            axis.set_ylim(-0.6, len(arms) - 0.4)
            axis.grid(axis="y", visible=False)
            axis.set_title(f"{metric.title}, less {study.reference}" + (", points" if metric.share else ""))


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
        figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=5)


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
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=min(study.seeds, 6))
