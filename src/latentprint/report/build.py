"""The verdict: what the numbers of one channel say, in sentences an engineer can act on.

Grades: see `latentprint.report.grades`; why an audit is inconclusive: see `latentprint.report.conclusive`; for readers
``docs/reading-a-report.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentprint.report import names
from latentprint.report.conclusive import Reason, doubts, reasons, state
from latentprint.report.grades import NO_LEAK, Headline, grade
from latentprint.report.impersonation import Impersonation, disagreement, missing, ranked_first
from latentprint.report.values import Measured, mapping, number, percent, sequence, text

LOW_EVALUATOR_ACCURACY = 0.90
LOW_CEILING = 0.80


def concluded(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished section of report.json says in the end: ``grade`` (a key), ``inconclusive`` (reasons, each with
    ``name``, ``message`` and ``mend``; empty where the verdict stands) and ``verdict`` (sentences). An inconclusive
    audit recommends nothing."""
    why = reasons(section)
    return {"grade": state(section).key, "inconclusive": [reason.to_json() for reason in why],
            "verdict": verdict(section), **({"recommended": {}} if why and "recommended" in section else {})}


def verdict(section: Mapping[str, Any]) -> str:
    """Plain sentences about one channel's section of report.json: what was reached, and how far to trust it.

    Never raises: what was not measured is said to be so.
    """
    head, why, second = Headline.of(section), reasons(section), Impersonation.of(section)
    passed = second.explained if second is not None else ""
    if head.attack.value is None:
        said = ("Inconclusive: the attack's headline number was not measured.", missing(section) or _said(why), passed)
    else:
        said = (_inconclusive(why), f"{numbers(section)} {passed}".strip(), "" if why else _hidden(section))
    return " ".join(sentence for sentence in said if sentence)


def numbers(section: Mapping[str, Any]) -> str:
    """The verdict without the second finding and without the reasons to doubt it, which have places of their own on the
    page."""
    head = Headline.of(section)
    if head.attack.value is None:
        return f"The attack's headline number was not measured. {missing(section)}".strip()
    sentences = [_reached(head), ranked_first(section), _ends(head), _leak(head, bool(reasons(section))),
                 disagreement(section)]
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
    if head.is_recovery:
        return ("Given a stored template and public photos, the attack drew a face that the independent judge accepts "
                f"as the person, against another photo, for {value} of the comparisons{behind}.")
    if not head.is_match_rate:
        return f"The attack reaches {value}{behind} on {head.metric.in_text}."
    return ("Given only this classifier and public photos, the attack drew a face that an independent "
            f"recogniser accepts as the right person for {value} of the images{behind}.")


def _ends(head: Headline) -> str:
    floor, ceiling = head.metric.show(head.floor.value), head.metric.show(head.ceiling.value)
    if head.is_recovery:
        return f"It accepts the mean public face for {floor} (floor) and the enrolled photos for {ceiling} (ceiling)."
    if not head.is_match_rate:
        return f"The floor is {floor}, the ceiling {ceiling}."
    without = f"it would be {floor}" if head.floor else "the rate was not measured"
    return f"Without the classifier {without}, and real photos " + (
        f"reach {ceiling}." if head.ceiling else "were not measured.")


def _inconclusive(why: Sequence[Reason]) -> str:
    """What stands first where the audit could not have seen a leak."""
    return f"Inconclusive: this audit does not tell whether there is a leak. {_said(why)}" if why else ""


def _said(why: Sequence[Reason]) -> str:
    return " ".join(reason.sentence for reason in why)


def _hidden(section: Mapping[str, Any]) -> str:
    """A leak was shown; what may hide more of it."""
    found = doubts(section)
    return f"The leak may be larger than measured. {_said(found)}" if found else ""


def _leak(head: Headline, inconclusive: bool) -> str:
    if not head.has_room or head.leak.value is None:
        return ""
    if inconclusive:
        return f"On the scale from floor to ceiling that is {percent(head.leak.value)}."
    word = grade(head.leak)
    if word is NO_LEAK and head.leak.value <= 0:
        return f"That is not above the floor: {head.subject} {word.words}."
    reach = f"That is {percent(head.leak.value)} of the way from floor to ceiling"
    if word is NO_LEAK:
        return f"{reach}, but the interval reaches zero: {head.subject} {word.words}."
    return f"{reach}: {head.subject} {word.words}."


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
