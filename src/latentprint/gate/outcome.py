"""Is what an audit measured within the bounds of a release? Read from report.json alone.

A number within its bound passes only where the audit could have seen a larger one: see `latentprint.report.conclusive`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.report.conclusive import doubts
from latentprint.report.html import read_report
from latentprint.report.values import flatten, mapping, number, scalar, sequence

End = Literal["value", "high"]
Verdict = Literal["passed", "failed", "inconclusive"]
#: Of a report whose numbers are within bounds and whose audit could not have seen a leak.
INCONCLUSIVE_EXIT = 4


@dataclass(frozen=True)
class Check:
    """One bound against what was measured; ``path`` is channel and keys of report.json, as ``label.leak``."""

    path: str
    measured: float
    most: float

    @property
    def passed(self) -> bool:
        """At the bound still passes."""
        return self.measured <= self.most


@dataclass(frozen=True)
class Outcome:
    """What a release check found.

    Attributes:
        directory: the run. checks: one for each bound.
        doubts: channel and sentence for each thing that may have hidden a leak from the audit.
        warnings: of the report, where they fail the check.
    """

    directory: Path
    checks: tuple[Check, ...]
    doubts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``failed`` above a bound or by a warning; ``inconclusive`` where a leak may have been hidden."""
        if self.warnings or not all(each.passed for each in self.checks):
            return "failed"
        return "inconclusive" if self.doubts else "passed"

    @property
    def exit_code(self) -> int:
        """0, 1 or `INCONCLUSIVE_EXIT`."""
        return {"passed": 0, "failed": 1, "inconclusive": INCONCLUSIVE_EXIT}[self.verdict]


def judge(directory: Path, bounds: Sequence[str], end: End = "value", strict: bool = False) -> Outcome:
    """Compare an audit with its bounds.

    Args:
        directory: a run directory.
        bounds: texts ``path=most``, such as ``label.leak=0.2``.
        end: compare the measured value, or the upper end of its 95% interval.
        strict: every warning of the report fails the check.

    Raises:
        UserError: no report, no such number in it, one that was not measured, or a bound that is no number.
    """
    parsed = [_bound(text) for text in bounds]
    report = read_report(directory / "report.json")
    channels = report["channels"]
    numbers = dict(flatten(channels))
    checks = tuple(Check(path, _measured(numbers, path, end), most) for path, most in parsed)
    bounded = dict.fromkeys(path.partition(".")[0] for path, _ in parsed)
    found = tuple((name, doubt.sentence) for name in bounded for doubt in doubts(mapping(channels.get(name))))
    warnings = tuple(scalar(warning) for warning in sequence(report.get("warnings"))) if strict else ()
    return Outcome(directory, checks, found, warnings)


def _bound(text: str) -> tuple[str, float]:
    path, _, most = text.partition("=")
    value = _finite(most)
    if not path.strip() or value is None:
        raise UserError(f"--max {text!r} should be PATH=NUMBER, as in --max label.leak=0.2")
    return path.strip(), value


def _measured(numbers: Mapping[str, str], path: str, end: End) -> float:
    given = numbers.get(f"{path}.{end}", numbers.get(path) if end == "value" else None)
    if given is None and (path in numbers or f"{path}.value" in numbers):
        raise UserError(f"--max {path}: --bound {end} needs an interval, and this number has none")
    if given is None:
        known = dict.fromkeys(name.removesuffix(".value") for name in numbers)
        word = f"{path}." if any(name.startswith(f"{path}.") for name in known) else path
        raise UserError(f"--max {path}: the report has no such number; {did_you_mean(word, known)}")
    if (value := _finite(given)) is None:
        raise UserError(f"--max {path}: the report holds no finite number there, so nothing can be concluded")
    return value


def _finite(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None
