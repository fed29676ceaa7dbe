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


def check(directory: Path, bounds: Sequence[str], end: End = "value") -> list[Check]:
    """Compare an audit with its bounds.

    Args:
        directory: a run directory.
        bounds: texts ``path=most``, such as ``label.leak=0.2``.
        end: compare the measured value, or the upper end of its 95% interval.

    Raises:
        UserError: no report, no such number in it, one that was not measured, or a bound that is no number.
    """
    parsed = [_bound(text) for text in bounds]
    numbers = dict(flatten(read_report(directory / "report.json")["channels"]))
    return [Check(path, _measured(numbers, path, end), most) for path, most in parsed]


def unseen(directory: Path, bounds: Sequence[str]) -> list[str]:
    """A sentence for each thing that may have hidden a leak from the channels that the bounds are about.

    Raises:
        UserError: as `check`.
    """
    channels = read_report(directory / "report.json")["channels"]
    asked = dict.fromkeys(_bound(text)[0].partition(".")[0] for text in bounds)
    return [f"{name}: {doubt.sentence}" for name in asked for doubt in doubts(mapping(channels.get(name)))]


def warnings(directory: Path) -> list[str]:
    """The warnings of a report.

    Raises:
        UserError: as `check`.
    """
    return [scalar(warning) for warning in sequence(read_report(directory / "report.json").get("warnings"))]


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
