"""The template channel's second finding: does the attacked recogniser itself accept the reconstructions?

A white-box attack optimises that recogniser, so what passes it may be a pattern that fools this one system. The
headline is therefore recovery of the face, by a judge that the attack did not use; impersonation stands beside it, with
numbers of its own. Reports written before the two were told apart have no such finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentprint.report import names
from latentprint.report.grades import LOW, grade
from latentprint.report.values import Measured, mapping, percent, text

SHARE = names.Metric("", is_share=True)


@dataclass(frozen=True)
class Impersonation:
    """How often the attacked system accepts reconstructions against other photos of the person, and its scale."""

    system: str
    leak: Measured
    attack: Measured
    floor: Measured
    ceiling: Measured

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Impersonation | None:
        """From a section of report.json; None where it holds no such finding."""
        found = mapping(section.get("impersonation"))
        if not found:
            return None
        return cls(text(found.get("system"), "the attacked recogniser"),
                   *(Measured.of(found.get(key)) for key in ("leak", "attack", "floor", "ceiling")))

    @property
    def title(self) -> str:
        """The finding and its number in one line."""
        return f"{self.name}: {percent(self.attack.value)}"

    @property
    def name(self) -> str:
        return f"Impersonation of {self.system}"

    @property
    def shown(self) -> str:
        """The number, for the first screen; empty where it was not measured."""
        return "" if self.attack.value is None else percent(self.attack.value)

    @property
    def interval(self) -> str:
        """Of the number, or an empty string."""
        return SHARE.interval(self.attack)

    @property
    def explained(self) -> str:
        """What the number means, with its interval and scale."""
        if self.attack.value is None:
            return ("Whether the attacked recogniser accepts the reconstructions was not measured, for it has no "
                    "threshold at FMR 1e-3.")
        interval = SHARE.interval(self.attack, " to ")
        scale = f"floor {percent(self.floor.value)}, ceiling {percent(self.ceiling.value)}"
        leak = "" if self.leak.value is None else f", {percent(self.leak.value)} of the way between them"
        return (f"The reconstructions pass the attacked recogniser for {percent(self.attack.value)} of the person's "
                f"other photos ({f'95% interval {interval}; ' if interval else ''}{scale}{leak}): impersonation of "
                "this system, which does not show that the face came back.")


def disagreement(section: Mapping[str, Any]) -> str:
    """Where the judge recognises the people and the attacked system does not accept their reconstructions, a sentence
    on that; the opposite makes a verdict inconclusive and is told there (`latentprint.report.conclusive`)."""
    found = Impersonation.of(section)
    leak = Measured.of(section.get("leak"))
    if found is None or found.leak.value is None or leak.value is None:
        return ""
    if grade(leak).key in LOW or grade(found.leak).key not in LOW:
        return ""
    return ("The two findings disagree: the judge recognises the people in the reconstructions, while the attacked "
            "recogniser hardly accepts them. The faces leak, and that system may not be impersonated.")


def ranked_first(section: Mapping[str, Any]) -> str:
    """How often the judge finds the right person first, beside the headline; empty where that was not measured."""
    rank1 = mapping(mapping(section.get("recovery")).get("rank1"))
    attack, ceiling = (Measured.of(rank1.get(key)) for key in ("attack", "ceiling"))
    if attack.value is None:
        return ""
    return (f"Among all enrolled people it ranks the right one first for {percent(attack.value)} of the "
            f"reconstructions (for the enrolled photos {percent(ceiling.value)}).")


def missing(section: Mapping[str, Any]) -> str:
    """Why recovery of the face was not measured, as a sentence, or an empty string."""
    said = text(mapping(section.get("recovery")).get("missing"))
    return f"{said[:1].upper()}{said[1:]}." if said else ""
