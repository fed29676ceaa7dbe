"""The grades of a leak, and the numbers of one channel's section of report.json that the first screen shares.

Words by leak: see ``GRADES``, and for readers ``docs/reading-a-report.md``. When the leak's 95% interval reaches zero,
no leak was shown, whatever its middle says. Whether the audit could have shown one is asked by
`latentprint.report.conclusive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentprint.report import names
from latentprint.report.values import Measured, mapping, text

#: Headline metric of the template channel: recovery of the face by the first judge.
RECOVERY = "sar_type2_judge"


@dataclass(frozen=True)
class Grade:
    """A word for a leak of at least ``least``."""

    least: float
    key: str
    words: str


NO_GRADE = Grade(float("-inf"), "unknown", "was not measured")
INCONCLUSIVE = Grade(float("-inf"), "inconclusive", "inconclusive")
NO_LEAK = Grade(float("-inf"), "none", "shows no leak to this attack")
GRADES = (
    Grade(0.65, "strong", "leaks strongly"),
    Grade(0.35, "substantial", "leaks substantially"),
    Grade(0.10, "moderate", "leaks moderately"),
    Grade(0.00, "little", "leaks little"),
)


#: Keys of the grades that reassure: no leak, or little of one.
LOW = (NO_LEAK.key, GRADES[-1].key)


def grade(leak: Measured) -> Grade:
    """The word for a leak; ``NO_LEAK`` when its interval (or, without one, its value) is not above zero."""
    if leak.value is None:
        return NO_GRADE
    if (leak.value if leak.low is None else leak.low) <= 0:
        return NO_LEAK
    return next((entry for entry in GRADES if leak.value >= entry.least), GRADES[-1])


@dataclass(frozen=True)
class Headline:
    """The numbers that the first screen and the verdict share, from one channel's section of report.json."""

    metric: names.Metric
    subject: str
    is_match_rate: bool
    is_recovery: bool
    leak: Measured
    attack: Measured
    floor: Measured
    ceiling: Measured
    prior_ceiling: Measured
    pseudo_label: Measured
    gain_over_pseudo_label: Measured

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Headline:
        """From a section that may lack any of it; an arm's headline metric stands in for a missing key."""
        name = text(section.get("headline"), "headline metric")
        arms = mapping(section.get("arms"))

        def find(key: str) -> Measured:
            return Measured.of(section.get(key)) or Measured.of(mapping(arms.get(key)).get(name))

        subject = "a stored template" if name.startswith("sar_") else "this model"
        return cls(names.metric(name), subject, name == "identity_match_rate", name == RECOVERY,
                   Measured.of(section.get("leak")),
                   *(find(key) for key in ("attack", "floor", "ceiling", "prior_ceiling", "pseudo_label",
                                           "gain_over_pseudo_label")))

    @property
    def has_room(self) -> bool:
        """Whether the floor, as far as both are known, is below the ceiling."""
        floor, ceiling = self.floor.value, self.ceiling.value
        return floor is None or ceiling is None or floor < ceiling
