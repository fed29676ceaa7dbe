"""The ledger of the notes' expectations: what was claimed, where, what was measured, and the verdict.

No number is typed in: measured values are read from the summaries of studies. A claim that no study can measure, or
whose study has not run, stays in the ledger without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

from latentprint.report.values import mapping, number
from latentprint.stats import success_rate, t_interval
from latentprint.study.definition import difference_name, matched_name

Part = Literal["confirmed", "refuted", "smaller than claimed", "larger than claimed", "not resolved"]
Verdict = Literal["confirmed", "direction confirmed, size refuted", "direction confirmed, size not resolved", "refuted",
                  "direction not resolved, size refuted", "not resolved", "not measured", "not yet run"]


@dataclass(frozen=True)
class Level:
    """An arm's own value is claimed to lie in a range, in the metric's unit (shares as shares): a size.

    The range is that of the notes; ``tolerance`` widens it on both sides, for a claim that names a single value.
    """

    study: str
    arm: str
    metric: str
    low: float
    high: float
    tolerance: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class Difference(Level):
    """The arm less another, by default the study's reference.

    A range that is one side of 0 as a whole (0 to infinity) claims a direction; one beside 0 claims a direction and a
    size; one around 0 claims a size, that there is hardly a difference.
    """

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
    """The share of an arm's runs that reach the metric's bound, with the interval of Clopper and Pearson."""


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
    tolerance: float = field(default=0.0, kw_only=True)


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
    unit = _unit(claim.by, summaries)
    parts: Mapping[str, str] = {} if claim.by is None or low is None or high is None else judged(claim.by, low, high)
    return {
        "id": claim.id, "source": claim.source, "claim": claim.claim, "expected": claim.expected, "measured": value,
        "low": low, "high": high, "n": n, "tested": decided_by(claim.by, unit), "direction": parts.get("direction"),
        "size": parts.get("size"), "verdict": verdict(claim.by, value, low, high, ran=found is not None),
        "measurement": measurement(claim.by), "command": command, "of": _said(claim.by, summaries),
        "note": "; ".join(filter(None, (_censored(found), claim.why))), "unit": unit}


def measurement(by: Level | Cost | None) -> str:
    """A key that two claims share when they rest on the same measured number; empty without one."""
    if by is None:
        return ""
    if isinstance(by, Cost):
        return f"bench {by.bench}: {by.value}, {_named(by.row)}" + (f" over {_named(by.over)}" if by.over else "")
    kind = {Share: "share", Matched: "matched"}.get(type(by), "")
    return f"{by.study}: {' '.join(filter(None, (kind, getattr(by, 'key', by.arm), by.metric)))}"


def _censored(found: Mapping[str, Any] | None) -> str:
    """What is to be said of a time that not all runs reached."""
    if found is None or "horizon" not in found or found["reached"] == (runs := found.get("runs", found["n"])):
        return ""
    return f"{found['reached']} of {runs} runs reached it within {found['horizon']:.0f} steps"


def _said(by: Level | Cost | None, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What the measured number is, in words."""
    if isinstance(by, Cost):
        return f"{by.value}: {_named(by.row)}" + (f" over {_named(by.over)}" if by.over is not None else "")
    if by is None or by.study not in summaries:
        return ""
    summary = summaries[by.study]
    title = mapping(summary.get("titles")).get(by.metric, by.metric)
    if isinstance(by, Share):
        return f"{by.arm}: share of runs that reach it, {title}"
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


def directed(by: Level | Cost) -> int:
    """The sign of the direction that is claimed; 0 without one."""
    if not isinstance(by, Difference | Matched):
        return 0
    return 1 if by.low >= 0 and by.high > 0 else -1 if by.high <= 0 and by.low < 0 else 0


def sized(by: Level | Cost) -> bool:
    """Whether a size is claimed, not a direction alone."""
    return not directed(by) or not (by.low in (0, -math.inf) and by.high in (0, math.inf))


def decided_by(by: Level | Cost | None, unit: str = "") -> str:
    """What the verdict decides, in words: direction, size or both, with the range."""
    if by is None:
        return ""
    sign, scale = directed(by), 100 if unit else 1
    way = f"direction: {'above' if sign > 0 else 'below'} 0"
    low, high = (f"{scale * (end if end else 0):.4g}" for end in (by.low, by.high))
    around = f" ± {scale * by.tolerance:.4g}" if by.tolerance else ""
    size = (f"{low}{around}" if by.low == by.high else f"at least {low}{around}" if math.isinf(by.high)
            else f"at most {high}{around}" if math.isinf(by.low) else f"{low} to {high}{around}")
    size = f"size: {size}{f' {unit}' if unit else ''}"
    return way if sign and not sized(by) else f"{way}; {size}" if sign else size


def judged(by: Level | Cost, low: float, high: float) -> dict[str, Part]:
    """``direction`` and ``size``, as far as they are claimed, by an interval.

    A direction is confirmed where the interval lies on its side of 0, and refuted where it lies on the other. A size is
    confirmed where the interval lies within the claimed range and its tolerance, and refuted where it lies outside.
    Both are monotone: moving an interval away from what is claimed never makes a verdict more favourable.
    """
    found: dict[str, Part] = {}
    if sign := directed(by):
        near, far = sorted((sign * low, sign * high))
        found["direction"] = "confirmed" if near > 0 else "refuted" if far < 0 else "not resolved"
    if sized(by):
        least, most = by.low - by.tolerance, by.high + by.tolerance
        beyond: tuple[Part, Part] = ("larger than claimed", "smaller than claimed")
        below, above = beyond if sign < 0 else beyond[::-1]
        found["size"] = (below if high < least else above if low > most
                         else "confirmed" if least <= low and high <= most else "not resolved")
    return found


def verdict(by: Level | Cost | None, value: float | None, low: float | None, high: float | None,
            ran: bool = True) -> Verdict:
    """In one phrase, of `judged`; a value without an interval resolves nothing."""
    if by is None or not ran:
        return "not yet run"
    if value is None:
        return "not measured"
    if low is None or high is None:
        return "not resolved"
    short = {name: "refuted" if "claimed" in part else part for name, part in judged(by, low, high).items()}
    said = (next(iter(short.values())) if len(set(short.values())) == 1
            else f"direction {short['direction']}, size {short['size']}")
    return cast(Verdict, said)
