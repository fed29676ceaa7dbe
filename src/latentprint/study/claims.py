"""The ledger of the notes' expectations: what was claimed, where, what was measured, and the verdict.

No number is typed in: measured values are read from the summaries of studies. A claim that no study can measure, or
whose study has not run, stays in the ledger without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from latentprint.engine.state import write_text
from latentprint.errors import UserError
from latentprint.report.values import mapping
from latentprint.study.analyse import SUMMARY
from latentprint.study.outputs import markdown

Verdict = Literal["confirmed", "refuted", "within noise", "not yet run"]


@dataclass(frozen=True)
class Level:
    """An arm's own value is claimed to lie in a range, in the metric's unit (shares as shares)."""

    study: str
    arm: str
    metric: str
    low: float
    high: float


class Difference(Level):
    """The arm less the study's reference is claimed to; ``low`` above 0 or ``high`` below 0 says a direction."""


@dataclass(frozen=True)
class Claim:
    """An expectation of the notes; ``by`` None: no study measures it yet, and ``why`` says so."""

    id: str
    source: str
    claim: str
    expected: str
    by: Level | None = None
    why: str = ""


def ledger(claims: Sequence[Claim], summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a claim; ``summaries`` by the name of their study."""
    return [_row(claim, summaries) for claim in claims]


def _row(claim: Claim, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = None if claim.by is None else _measured(claim.by, summaries.get(claim.by.study))
    value, low, high, n = (None if found is None else found.get(key) for key in ("value", "low", "high", "n"))
    return {
        "id": claim.id, "source": claim.source, "claim": claim.claim, "expected": claim.expected, "measured": value,
        "low": low, "high": high, "n": n, "verdict": verdict(claim.by, value, low, high),
        "command": "" if claim.by is None else f"latentprint study run {claim.by.study}", "note": claim.why}


def _measured(by: Level, summary: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if summary is None:
        return None
    if isinstance(by, Difference):
        found = mapping(mapping(summary["contrasts"]).get(by.metric)).get(by.arm)
    else:
        found = mapping(mapping(mapping(summary["arms"]).get(by.arm)).get("metrics")).get(by.metric)
    return found if isinstance(found, Mapping) else None


def verdict(by: Level | None, value: float | None, low: float | None, high: float | None) -> Verdict:
    """By the interval over seeds.

    A claimed direction is *confirmed* where the interval lies on its side of 0, whatever the size; a claimed range that
    holds 0 or is a level, where the interval meets it and is no wider than twice the range or a tenth. *Refuted*: the
    interval lies outside the range on the side that contradicts it (for a direction: beyond 0, or wholly short of a
    claimed size). *Within noise*: neither.
    """
    if by is None or value is None or low is None or high is None:
        return "not yet run"
    if isinstance(by, Difference) and (by.low > 0 or by.high < 0):
        sign = 1 if by.low > 0 else -1
        near, far = sorted((sign * low, sign * high))
        least = min(abs(by.low), abs(by.high))
        if near > 0:
            return "confirmed"
        return "refuted" if far < least else "within noise"
    if high < by.low or low > by.high:
        return "refuted"
    return "confirmed" if high - low <= max(2 * (by.high - by.low), 0.1) else "within noise"


def write_claims(folders: Sequence[Path], out: Path, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """``claims.json`` and ``claims.md`` from the studies in ``folders``; returns the rows.

    Raises:
        UserError: a folder holds no finished study, or two hold the same one.
    """
    summaries: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        if not (folder / SUMMARY).is_file():
            raise UserError(f"{folder} holds no study that has run: no {SUMMARY}")
        summary = json.loads((folder / SUMMARY).read_text())
        if summary["study"] in summaries:
            raise UserError(f"{folder}: the study '{summary['study']}' is given twice")
        summaries[summary["study"]] = summary
    rows = ledger(claims, summaries)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "claims.json", json.dumps({"claims": rows}, indent=1) + "\n")
    write_text(out / "claims.md", _page(rows, summaries))
    return rows


def _page(rows: Sequence[Mapping[str, Any]], summaries: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {name: sum(row["verdict"] == name for row in rows) for name in get_args(Verdict)}
    sizes = "".join(f"- `{name}`: {found['command']}, preset {found['preset']}, {found['seeds']} seeds\n"
                    for name, found in summaries.items())
    body = [[row["id"], row["source"], row["claim"], row["expected"], _cell(row), row["verdict"],
             f"`{row['command']}`" if row["command"] else row["note"]] for row in rows]
    head = ["id", "source", "claim", "expected", "measured", "verdict", "command"]
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return (f"# The notes' expectations, measured\n\nWritten by `latentprint study claims`, no number by hand. "
            f"{len(rows)} claims: {said}. Measured values are means over seeds with Student's 95% interval; shares are "
            f"shares, differences are to the study's reference arm. The notes expect them of real faces at 512 pixels, "
            f"here people are procedural: a direction is tested, a size only loosely.\n\n{sizes}\n"
            + markdown(head, body))


def _cell(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return "–"
    ends = f" ({row['low']:.3g} to {row['high']:.3g})" if row["low"] is not None and row["high"] is not None else ""
    return f"{row['measured']:.3g}{ends}, n {row['n']}"
