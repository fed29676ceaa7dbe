"""The verdict: what the numbers of one channel say, in sentences an engineer can act on.

Words by leak: see ``GRADES``, and for readers ``docs/reading-a-report.md``. When the leak's 95% interval
reaches zero, no leak was shown, whatever its middle says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentprint.report import names
from latentprint.report.values import Measured, mapping, number, percent, sequence, text

LOW_EVALUATOR_ACCURACY = 0.90
LOW_CEILING = 0.80


@dataclass(frozen=True)
class Grade:
    """A word for a leak of at least ``least``."""

    least: float
    key: str
    words: str


NO_GRADE = Grade(float("-inf"), "unknown", "was not measured")
NO_LEAK = Grade(float("-inf"), "none", "shows no leak to this attack")
GRADES = (
    Grade(0.65, "strong", "leaks strongly"),
    Grade(0.35, "substantial", "leaks substantially"),
    Grade(0.10, "moderate", "leaks moderately"),
    Grade(0.00, "little", "leaks little"),
)


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
        return cls(names.metric(name), subject, name == "identity_match_rate", Measured.of(section.get("leak")),
                   *(find(key) for key in ("attack", "floor", "ceiling", "prior_ceiling", "pseudo_label",
                                           "gain_over_pseudo_label")))

    @property
    def has_room(self) -> bool:
        """Whether the floor, as far as both are known, is below the ceiling."""
        floor, ceiling = self.floor.value, self.ceiling.value
        return floor is None or ceiling is None or floor < ceiling


def verdict(section: Mapping[str, Any]) -> str:
    """Plain sentences about one channel's section of report.json: what was reached, and how far to trust it.

    Never raises: what was not measured is said to be so.
    """
    head = Headline.of(section)
    if head.attack.value is None:
        return "The attack's headline number was not measured, so there is no verdict."
    sentences = [_reached(head), _ends(head), _leak(head), _by_class(head, section)]
    if head.has_room:
        sentences += [_against_baseline(head), _against_prior(head)]
    return " ".join(sentence for sentence in (*sentences, _defence(section), *cautions(section)) if sentence)


def cautions(section: Mapping[str, Any]) -> list[str]:
    """Reasons to distrust the numbers, in short: the report's warnings say what each of them means."""
    head, found = Headline.of(section), []
    rows = [(text(row.get("name"), "unnamed"), number(row.get("accuracy")))
            for row in map(mapping, sequence(section.get("evaluators")))]
    weak = [f"{name} ({percent(accuracy)})" for name, accuracy in rows
            if accuracy is not None and accuracy < LOW_EVALUATOR_ACCURACY]
    if weak:
        found.append(f"Caution: weak evaluators, {' and '.join(weak)}.")
    if head.metric.is_share and head.ceiling.value is not None and head.ceiling.value < LOW_CEILING:
        found.append(f"Caution: a low ceiling, {percent(head.ceiling.value)}.")
    return found


def _reached(head: Headline) -> str:
    value, interval = head.metric.show(head.attack.value), head.metric.interval(head.attack, " to ")
    behind = f" (95% interval {interval})" if interval else ""
    if not head.is_match_rate:
        return f"The attack reaches {value}{behind} on {head.metric.in_text}."
    return ("Given only this classifier and public photos, the attack drew a face that an independent "
            f"recogniser accepts as the right person for {value} of the images{behind}.")


def _ends(head: Headline) -> str:
    floor, ceiling = head.metric.show(head.floor.value), head.metric.show(head.ceiling.value)
    if not head.is_match_rate:
        return f"The floor is {floor}, the ceiling {ceiling}."
    without = f"it would be {floor}" if head.floor else "the rate was not measured"
    return f"Without the classifier {without}, and real photos " + (
        f"reach {ceiling}." if head.ceiling else "were not measured.")


def _leak(head: Headline) -> str:
    if not head.has_room:
        return "The floor is not below the ceiling, so a leak between them cannot be stated."
    if head.leak.value is None:
        return "The leak between floor and ceiling was not measured."
    word = grade(head.leak)
    if word is NO_LEAK and head.leak.value <= 0:
        return f"That is not above the floor: {head.subject} {word.words}."
    reach = f"That is {percent(head.leak.value)} of the way from floor to ceiling"
    if word is NO_LEAK:
        return f"{reach}, but the interval reaches zero: {head.subject} {word.words}."
    return f"{reach}: {head.subject} {word.words}."


def _by_class(head: Headline, section: Mapping[str, Any]) -> str:
    """Evidence that a strict judge, or one far from its own kind of pictures, does not accept as the person."""
    arms = mapping(section.get("arms"))
    top1, floor = (Measured.of(mapping(arms.get(arm)).get("top1")) for arm in ("attack", "floor"))
    if grade(head.leak) is not NO_LEAK or top1.low is None or floor.high is None or top1.low <= floor.high:
        return ""
    return (f"Yet the evaluators name the right person for {percent(top1.value)} of the images, where without the "
            f"classifier they do for {percent(floor.value)}: it gave something of its people away.")


def _defence(section: Mapping[str, Any]) -> str:
    """What the defence changed in leak and in accuracy; whether surely, by the paired intervals."""
    found = mapping(section.get("defence"))
    before, after = Measured.of(mapping(found.get("undefended")).get("leak")), Measured.of(section.get("leak"))
    less, cost = Measured.of(found.get("leak_reduction")), Measured.of(found.get("accuracy_cost"))
    if before.value is None or after.value is None or less.bounds is None:
        return ""
    low, high = less.bounds
    if surely(less):
        said = (f"The defence {'lowered' if low > 0 else 'raised'} the leak from {percent(before.value)} to "
                f"{percent(after.value)}")
    else:
        said = (f"With the defence the leak is {percent(after.value)} instead of {percent(before.value)}, but the 95% "
                f"interval of the reduction ({names.points(low)} to {names.points(high)} points) holds zero")
    return f"{said}{_price(cost)}."


def _price(cost: Measured) -> str:
    if cost.value is None:
        return ""
    if not surely(cost):
        return ", with no sure change in accuracy"
    points = names.points(abs(cost.value))
    counted = f"{points} point{'' if points == '1' else 's'} of accuracy"
    return f", at a cost of {counted}" if cost.value > 0 else f", and gained {counted}"


def surely(difference: Measured) -> bool:
    """Whether the 95% interval of a difference is known and does not hold zero."""
    return difference.bounds is not None and (difference.bounds[0] > 0 or difference.bounds[1] < 0)


def _against_baseline(head: Headline) -> str:
    """By the paired gain where it was measured; else the attack's interval against the baseline's value."""
    attack, baseline, gain = head.attack, head.pseudo_label, head.gain_over_pseudo_label
    if attack.value is None or baseline.value is None:
        return ""
    shown, ahead = head.metric.show(baseline.value), attack.value - baseline.value
    surely = attack.low is None or attack.low > baseline.value
    if gain.value is not None:
        ahead, surely = gain.value, gain.low is not None and gain.low > 0
    if ahead <= 0:
        return f"The attack does not beat the pseudo-label baseline ({shown}), which optimises nothing."
    if not surely:
        return f"It is ahead of the pseudo-label baseline ({shown}), but by less than its own uncertainty."
    return ""


def _against_prior(head: Headline) -> str:
    best, attack = head.prior_ceiling.value, head.attack
    reached = attack.value if attack.high is None else attack.high
    if best is None or reached is None or reached < best:
        return ""
    shown = head.metric.show(best)
    return (f"It is at the limit of what its prior can draw ({shown} with the true identities given): a "
            "better prior may show a larger leak.")
