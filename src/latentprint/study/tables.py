"""Tables of a study for a thesis chapter: CSV, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from latentprint.study.definition import Metric, Study, comparisons, matched

#: Metrics side by side on a page; more of them go below.
ABREAST = 4

_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


class Cell(NamedTuple):
    """A number, and what is to be known with it: its interval, p."""

    value: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.detail})" if self.detail else self.value


class Table(NamedTuple):
    """``head`` is as long as each line of ``body``; the first cell of a line names it."""

    title: str
    head: list[str]
    body: list[list[Cell]]


def tables(study: Study, summary: Mapping[str, Any]) -> list[Table]:
    """The arms' values, and the comparisons, with intervals over seeds."""
    head = [metric.title + (", %" if metric.share else "") for metric in study.metrics.values()]
    values = [[Cell(arm), _runs(own["runs"]),
               *(_cell(metric, own["metrics"][name]) for name, metric in study.metrics.items())]
              for arm, own in summary["arms"].items()]
    found = [Table("Values", ["arm", "runs", *head], values)]
    lines = [[Cell(key), *(_difference(metric, summary["contrasts"][name].get(key))
                           for name, metric in study.metrics.items())] for key in comparisons(study)]
    if lines:
        found.append(Table(f"Difference from {study.reference}, or as the row names it", ["arm", *head], lines))
    if pairs := matched(study):
        kept = study.front[0]
        names = [name for name in study.metrics if name != kept]
        found.append(Table(f"At equal {study.metrics[kept].title}", [
            "families", *(title for name, title in zip(study.metrics, head, strict=True) if name != kept)],
            [[Cell(key), *(_difference(study.metrics[name], summary["matched"][name].get(key)) for name in names)]
             for key in pairs]))
    return found


def _runs(runs: Mapping[str, Any]) -> Cell:
    broken = runs.get("broken", 0)
    return Cell(f"{runs['done']} of {runs['done'] + runs['failed']}", f"{broken} did not run" if broken else "")


def _cell(metric: Metric, found: Mapping[str, Any] | None) -> Cell:
    if found is not None and found.get("reached") == 0:
        return Cell(not_reached(found), f"0 of {found['n']}")
    if found is None or found["value"] is None:
        return Cell("–")
    reached = f"{found['reached']} of {found['n']} reached the threshold" if "reached" in found else ""
    details = _ends(metric, found), _limit(found), reached
    return Cell(_number(metric, found["value"]), ", ".join(filter(None, details)))


def not_reached(found: Mapping[str, Any]) -> str:
    """What there is to say of a time that no run reached."""
    return f"not reached within {found['horizon']:.0f} steps"


def _limit(found: Mapping[str, Any]) -> str:
    """Up to when times were counted, where a run did not get there before."""
    censored = "horizon" in found and found["reached"] < found.get("runs", found["n"])
    return f"mean up to {found['horizon']:.0f} steps" if censored else ""


def _difference(metric: Metric, found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell("–")
    if found["value"] is None:
        return Cell(not_reached(found), f"0 of {found['runs']}")
    p = f"p {found['p_holm']:.2g}"
    details = _ends(metric, found), _limit(found), p
    return Cell(_number(metric, found["value"], "+"), ", ".join(filter(None, details)))


def _ends(metric: Metric, found: Mapping[str, Any]) -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    return f"{_number(metric, found['low'])} to {_number(metric, found['high'])}"


def _number(metric: Metric, value: float, plus: str = "") -> str:
    if metric.share:
        return f"{100 * value:{plus}.1f}"
    if metric.timed:
        return f"{value:{plus}.0f}"
    return f"{value:{plus}.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:{plus}.2g}"


def tidy(study: Study, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each arm and metric, and for each comparison: every statistic as a number, shares as shares.

    ``at_equal`` names the metric at whose equal values two families of arms are compared.
    """
    lines = []
    for name in study.metrics:
        found = {**{(arm, "", ""): own["metrics"][name] for arm, own in summary["arms"].items()},
                 **{(*pair, ""): summary["contrasts"][name].get(key) for key, pair in comparisons(study).items()},
                 **{(*pair, study.front[0]): summary["matched"][name].get(key) for key, pair in matched(study).items()}}
        lines += [{"metric": name, "arm": arm, "less": other, "at_equal": equal, **{key: row.get(key) for key in TIDY}}
                  for (arm, other, equal), row in found.items() if row is not None]
    return lines


#: Statistics of a line of `tidy`.
TIDY = ("value", "low", "high", "n", "sd", "reached", "horizon", "median", "effect", "p", "p_holm", "p_wilcoxon")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a head; what is None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return file.getvalue()


def markdown(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A table whose cells cannot break it."""
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(study: Study, found: Sequence[Table]) -> str:
    """A ``table`` of booktabs' rules for each; see `abreast`."""
    return "\n".join(_latex(study, each, number) for number, each in enumerate(found))


def _latex(study: Study, found: Table, number: int) -> str:
    parts: list[str] = []
    for part in abreast(found):
        every: list[Sequence[object]] = [part.head, *part.body]
        head, *lines = (" & ".join(tex(str(cell)) for cell in line) for line in every)
        body = " \\\\\n".join(lines)
        parts.append(f"\\begin{{tabular}}{{l{'r' * (len(part.head) - 1)}}}\n\\toprule\n{head} "
                     f"\\\\\n\\midrule\n{body} \\\\\n\\bottomrule\n\\end{{tabular}}\n")
    label = f"tab:{study.name}" + (f"-{number}" if number else "")
    return (f"\\begin{{table}}\n\\centering\n\\small\n\\caption{{{tex(f'{study.question} {found.title}.')}}}\n"
            f"\\label{{{label}}}\n" + "\n\\medskip\n\n".join(parts) + "\\end{table}\n")


def abreast(found: Table, most: int = ABREAST) -> list[Table]:
    """The same in tables of at most so many metrics, each with the columns that name a line."""
    names = found.head.index("runs") + 1 if "runs" in found.head else 1
    slices = [[*range(names), *range(start, min(start + most, len(found.head)))]
              for start in range(names, len(found.head), most)]
    return [Table(found.title, [found.head[column] for column in columns],
                  [[line[column] for column in columns] for line in found.body]) for columns in slices]


def section(study: Study, summary: Mapping[str, Any]) -> str:
    """All tables in Markdown, one below the other."""
    return "\n".join(f"**{each.title}**\n\n" + "\n".join(markdown(part.head, part.body) for part in abreast(each))
                     for each in tables(study, summary))


def tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_TEX.get(letter, letter) for letter in text).replace("–", "--")
