"""The ledger of the notes' expectations: what was claimed, where, what was measured, and the verdict.

No number is typed in: measured values are read from the summaries of studies. A claim that no study can measure, or
whose study has not run, stays in the ledger without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from latentprint.report.values import mapping, number
from latentprint.stats import success_rate, t_interval
from latentprint.study.definition import difference_name, matched_name

Verdict = Literal["confirmed", "refuted", "within noise", "not yet run"]


@dataclass(frozen=True)
class Level:
    """An arm's own value is claimed to lie in a range, in the metric's unit (shares as shares)."""

    study: str
    arm: str
    metric: str
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Level):
    """The arm less another, by default the study's reference; ``low`` above 0 or ``high`` below 0 says a direction."""

    other: str = ""

    @property
    def key(self) -> str:
        """Its name among the study's comparisons."""
        return difference_name(self.arm, self.other) if self.other else self.arm


@dataclass(frozen=True)
class Matched(Level):
    """A family of arms (``arm``) less another at equal accuracy, or whatever the study's front keeps."""

    other: str = ""


class Share(Level):
    """The share of an arm's runs that get to the metric's bound, with the interval of Clopper and Pearson."""


@dataclass(frozen=True)
class Cost:
    """A value of ``latentprint bench --json`` is claimed to lie in a range; an interval needs several files.

    ``row`` picks the row; with ``over`` the value is the quotient by that of another row.
    """

    bench: str
    row: Mapping[str, str]
    value: str
    low: float
    high: float
    over: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """An expectation of the notes; ``by`` None: no study measures it yet, and ``why`` says so."""

    id: str
    source: str
    claim: str
    expected: str
    by: Level | Cost | None = None
    why: str = ""


#: By name of a bench, the rows of each of its runs.
Benches = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]


def ledger(claims: Sequence[Claim], summaries: Mapping[str, Mapping[str, Any]],
           benches: Benches = MappingProxyType({})) -> list[dict[str, Any]]:
    """A row a claim; ``summaries`` by the name of their study."""
    return [_row(claim, summaries, benches) for claim in claims]


def ran(summary: Mapping[str, Any]) -> str:
    """The command that made a study's summary."""
    return f"latentprint study run {summary['study']} --seeds {summary['seeds']}"


def _row(claim: Claim, summaries: Mapping[str, Mapping[str, Any]], benches: Benches) -> dict[str, Any]:
    found: Mapping[str, Any] | None = None
    command = ""
    if isinstance(claim.by, Cost):
        found, command = _cost(claim.by, benches.get(claim.by.bench, ())), f"latentprint bench {claim.by.bench} --json"
    elif claim.by is not None:
        summary = summaries.get(claim.by.study)
        found = _measured(claim.by, summary)
        command = f"latentprint study run {claim.by.study}" if summary is None else ran(summary)
    value, low, high, n = (None if found is None else found.get(key) for key in ("value", "low", "high", "n"))
    return {
        "id": claim.id, "source": claim.source, "claim": claim.claim, "expected": claim.expected, "measured": value,
        "low": low, "high": high, "n": n, "verdict": verdict(claim.by, value, low, high),
        "command": command, "of": _said(claim.by, summaries), "note": claim.why, "unit": _unit(claim.by, summaries)}


def _said(by: Level | Cost | None, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What the measured number is, in words."""
    if isinstance(by, Cost):
        return f"{by.value}: {_named(by.row)}" + (f" over {_named(by.over)}" if by.over is not None else "")
    if by is None or by.study not in summaries:
        return ""
    summary = summaries[by.study]
    title = mapping(summary.get("titles")).get(by.metric, by.metric)
    if isinstance(by, Share):
        return f"{by.arm}: share of runs that get there, {title}"
    if isinstance(by, Difference):
        return f"{difference_name(by.arm, by.other or summary['reference'])}: {title}"
    return f"{matched_name(by.arm, by.other) if isinstance(by, Matched) else by.arm}: {title}"


def _named(row: Mapping[str, str]) -> str:
    return ", ".join(row.values())


def _unit(by: Level | Cost | None, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """How people read a share, ``%`` or as a difference ``points``; of anything else nothing."""
    if isinstance(by, Share):
        return "%"
    if not isinstance(by, Level) or by.metric not in summaries.get(by.study, {}).get("shares", ()):
        return ""
    return "points" if isinstance(by, Difference | Matched) else "%"


def _measured(by: Level, summary: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if summary is None:
        return None
    if isinstance(by, Matched):
        found: Any = mapping(mapping(summary.get("matched")).get(by.metric)).get(matched_name(by.arm, by.other))
    elif isinstance(by, Difference):
        found = mapping(mapping(summary["contrasts"]).get(by.metric)).get(by.key)
    else:
        found = mapping(mapping(mapping(summary["arms"]).get(by.arm)).get("metrics")).get(by.metric)
    if not isinstance(found, Mapping):
        return None
    return success_rate(found["reached"], found["n"]).to_json() if isinstance(by, Share) else found


def _cost(by: Cost, runs: Sequence[Sequence[Mapping[str, Any]]]) -> Mapping[str, Any] | None:
    def value(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> float | None:
        fit = [row for row in rows if all(row.get(key) == one for key, one in wanted.items())]
        return number(fit[0].get(by.value)) if fit else None

    found = [(value(rows, by.row), 1.0 if by.over is None else value(rows, by.over)) for rows in runs]
    quotients = [a / b for a, b in found if a is not None and b]
    return t_interval(quotients).to_json() if quotients else None


def verdict(by: Level | Cost | None, value: float | None, low: float | None, high: float | None) -> Verdict:
    """By the interval over seeds.

    A claimed direction is *confirmed* where the interval lies on its side of 0, whatever the size; a claimed range that
    holds 0 or is a level, where the interval meets it and is no wider than twice the range or a tenth. *Refuted*: the
    interval lies outside the range on the side that contradicts it (for a direction: beyond 0, or wholly short of a
    claimed size). *Within noise*: neither. A level that is bounded on one side is confirmed where the interval lies on
    that side, refuted where it lies on the other.
    """
    if by is None or value is None or low is None or high is None:
        return "not yet run"
    if isinstance(by, Difference | Matched) and (by.low > 0 or by.high < 0):
        sign = 1 if by.low > 0 else -1
        near, far = sorted((sign * low, sign * high))
        least = min(abs(by.low), abs(by.high))
        if near > 0:
            return "confirmed"
        return "refuted" if far < least else "within noise"
    if high < by.low or low > by.high:
        return "refuted"
    if math.isinf(by.low) or math.isinf(by.high):
        return "confirmed" if by.low <= low and high <= by.high else "within noise"
    return "confirmed" if high - low <= max(2 * (by.high - by.low), 0.1) else "within noise"
