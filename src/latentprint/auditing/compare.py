"""Several cases side by side: what each costs and saves against the first, and which to take; once for all channels.

Cases are victims, each audited in a run of its own, or ways to store the templates of one audit. Data, seeds, attacks
and attacked images are the same, so that differences are paired.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from latentprint.auditing.channel import Audit
from latentprint.auditing.scores import Intervals, Json, Values
from latentprint.engine.loop import accelerator, is_main
from latentprint.engine.run import check_out
from latentprint.engine.settings import RunConfig
from latentprint.errors import UserError
from latentprint.report.html import render_run
from latentprint.report.pareto import Point, advice, pareto_plot
from latentprint.report.values import Measured

A = TypeVar("A", bound=Audit[Any])
C = TypeVar("C", bound=RunConfig)

UNDEFENDED, DEFENDED, AS_CONFIGURED = "undefended", "defended", "as configured"


@dataclass(frozen=True)
class Case:
    """One of several victims, or of several ways to store templates.

    Attributes:
        utility: 1 where the task is done right (an image classified, a person accepted), and whose each value is.
        leak: of the attack, as report.json has it.
        arms: attack, floor and ceiling, which the leak is made of.
        attacked: identifies what was attacked: leaks are compared image by image where it is the same.
        facts: what else its row of the report says.
        group: cases of one group share a colour.
    """

    name: str
    utility: Values
    leak: Json
    arms: Sequence[Values]
    attacked: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Comparison:
    """How the cases of a channel are compared.

    Attributes:
        key: of the rows in report.json. thing: what a case is, in words.
        utility: key of the utility in a row. words, axis: what it is called in sentences and on the plot.
        leak_axis: what the leak is called there.
        cost: the share of utility, against the first case, that a recommended one may cost.
    """

    key: str
    thing: str
    utility: str
    words: str
    axis: str
    leak_axis: str
    cost: float

    def write(self, section: dict[str, Any], cases: Sequence[Case], intervals: Intervals, folder: Path) -> None:
        """Add the rows, the recommendation and the plot to a channel's section of report.json."""
        section[self.key] = self.rows(cases, intervals)
        points = [Point(row["name"], Measured.of(row[self.utility]), Measured.of(row["leak"]), case.group)
                  for row, case in zip(section[self.key], cases, strict=True)]
        if best := advice(points, self.cost, self.words):
            section["recommended"] = best
        if is_main() and pareto_plot(points, folder / "images" / "pareto.png", self.leak_axis, self.axis):
            section.setdefault("variant_figures", []).append({
                "file": "images/pareto.png", "title": f"{self.axis.partition(' at ')[0]} against leak", "caption": (
                    f"One point per {self.thing}, with 95% intervals. Dashed: the Pareto front, those that no other "
                    "dominates.")})

    def rows(self, cases: Sequence[Case], intervals: Intervals) -> list[dict[str, Any]]:
        """For report.json a row a case; differences are from the first."""
        return [{"name": case.name, **case.facts, self.utility: intervals.rate(case.utility), "leak": case.leak,
                 **({} if case is cases[0] else {"leak_reduction": leak_reduction(cases[0], case, intervals),
                                                 f"{self.utility}_cost": cost(cases[0], case, intervals)})}
                for case in cases]


def leak_reduction(before: Case, after: Case, intervals: Intervals) -> Json | None:
    """Leak of the first case minus that of the other, paired; None where other images were attacked."""
    if before.attacked != after.attacked:
        return None
    return intervals.leak_reduction(before.arms[0], *after.arms)


def cost(before: Case, after: Case, intervals: Intervals) -> Json | None:
    """Utility of the first case minus that of the other, paired; None where it was measured on other images."""
    if len(before.utility.values) != len(after.utility.values):
        return None
    return intervals.difference(before.utility, after.utility)


def audit_beside(
    run_audit: Callable[[C, Path, bool, Callable[[A], None]], dict[str, Any]], victims: Sequence[tuple[str, C]],
    own: str, out: Path, resume: bool, *, check: Callable[[C], object], case: Callable[[str, A], Case],
    together: Callable[[A, list[Case]], None], place: Callable[[str], str] = "variants/{}".format,
    finished: Callable[[Path], object] | None = None,
) -> dict[str, Any]:
    """Audit several victims, each in a run of its own; returns the report of the one called ``own``, which has ``out``.

    Args:
        victims: names and settings, in order; the first is what the others are compared with.
        check: raises what is wrong with settings; all are checked before anything is spent.
        case: of a finished audit. together: adds the comparison to the section of ``own``, before its verdict.
        place: the folder of another victim's run, within ``out``. finished: is called with it, once its page is
            rendered, in the main process.

    Raises:
        UserError: two victims of one name, or as `run_steps`.
    """
    if is_main():
        check_out(out, resume)
    names = [name for name, _ in victims]
    if not all(map(slug, names)) or len(set(map(slug, names))) != len(names):
        raise UserError(f"variants: names must hold letters or digits and differ in them; got {', '.join(names)}")
    for _, settings in victims:
        check(settings)
    found: dict[str, Case] = {}

    def keep(name: str, audit: A) -> None:
        found[name] = case(name, audit)

    for name, settings in victims:
        if name != own:
            folder = out / place(slug(name))
            run_audit(settings, folder, resume, partial(keep, name))
            if is_main():
                render_run(folder)
                if finished is not None:
                    finished(folder)
            accelerator().wait_for_everyone()

    def before_verdict(audit: A) -> None:
        keep(own, audit)
        together(audit, [found[name] for name in names])

    return run_audit(dict(victims)[own], out, resume, before_verdict)


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")
