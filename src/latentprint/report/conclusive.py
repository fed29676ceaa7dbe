"""Could this audit have seen a leak? Reasons why one channel's section of report.json is inconclusive.

An audit that finds little tells something only where it could have found much. A `Reason` names what hides a leak, or
what makes its scale meaningless, and what to do about it. Some are found by a look at the model before the attack
(the section's ``probes``), the others follow from the numbers. `doubts` lists all of them; `reasons` those that decide
the verdict: a leak that was shown stays shown even where more of it may be hidden, so what only hides a leak counts
where little or none was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latentprint.report.grades import GRADES, INCONCLUSIVE, LOW, NO_LEAK, Grade, Headline, grade
from latentprint.report.impersonation import Impersonation
from latentprint.report.values import Measured, mapping, number, percent, sequence, text

#: Share of the ceiling that the prior, given the true identities, must reach for a missing leak to mean something.
LEAST_PRIOR = 0.5
#: Where real photos of the people reach less than this on the headline metric, the scale of the leak is too short.
LEAST_CEILING = 0.3
#: A judge that takes the private people for one another in more than this share of comparisons decides nothing.
MOST_CONFUSED = 0.05
#: Where no evaluator names this share of real held-out photos right, evaluators have learned nobody.
LEAST_EVALUATOR = 0.5
#: A low grade needs an interval of the leak that ends below this: with fewer people a large leak is not excluded.
MOST_HIDDEN = next(entry.least for entry in GRADES if entry.key == "substantial")


@dataclass(frozen=True)
class Reason:
    """Why an audit is inconclusive.

    Attributes:
        name: a key, such as ``no-gradient``.
        message: what was found, without a full stop.
        mend: what to set or to do about it, without a full stop.
        of_scale: the leak's scale itself is in doubt, so that no number on it stands.
    """

    name: str
    message: str
    mend: str
    of_scale: bool = False

    @property
    def sentence(self) -> str:
        """Both, with a capital and a full stop."""
        text_ = f"{self.message}: {self.mend}" if self.mend else self.message
        return text_[:1].upper() + text_[1:] + ("" if text_.endswith(("?", ".")) else ".")

    def to_json(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if key != "of_scale"}


def state(section: Mapping[str, Any]) -> Grade:
    """The grade of a section's leak, or ``INCONCLUSIVE``."""
    return INCONCLUSIVE if reasons(section) else grade(Headline.of(section).leak)


def reasons(section: Mapping[str, Any]) -> list[Reason]:
    """What makes the verdict inconclusive; empty where it stands."""
    low = grade(Headline.of(section).leak).key in LOW
    return [doubt for doubt in doubts(section) if low or doubt.of_scale]


def doubts(section: Mapping[str, Any]) -> list[Reason]:
    """All that may have hidden a leak or voids its scale, whatever was found.

    Args:
        section: one channel's section of report.json; any key may be missing or of another type.
    """
    head = Headline.of(section)
    found = [*_probes(section), *_scale(head), *_confusion(section), *_evaluators(section), *_prior(head),
             *_at_floor(head, section), *_disagreement(head, section), *_too_few(head), *_unbounded(head, section)]
    return list({doubt.name: doubt for doubt in reversed(found)}.values())[::-1]


def _probes(section: Mapping[str, Any]) -> Iterator[Reason]:
    for entry in map(mapping, sequence(section.get("probes"))):
        if message := text(entry.get("message")):
            yield Reason(text(entry.get("name"), "probe"), message, text(entry.get("mend")))


def _scale(head: Headline) -> Iterator[Reason]:
    if not head.has_room:
        yield Reason("no-room", f"the floor ({head.metric.show(head.floor.value)}) is not below the ceiling "
                     f"({head.metric.show(head.ceiling.value)})", "check the judge and the held-out photos, which "
                     "should reach more than pictures made without the model", of_scale=True)
    elif head.leak.value is None:
        yield Reason("not-measured", "the leak could not be measured", "see the warnings, which say what is missing",
                     of_scale=True)
    elif head.floor.value is None or head.ceiling.value is None:
        yield Reason("not-measured", "the floor or the ceiling of the leak's scale is missing", "see the "
                     "warnings, which say what is missing", of_scale=True)
    elif head.metric.is_share and head.ceiling.value < LEAST_CEILING:
        yield Reason("ceiling-weak", f"real photos of the same people reach only {percent(head.ceiling.value)} of the "
                     f"headline metric (below {percent(LEAST_CEILING)})", "take a judge that recognises these people, "
                     "or photos framed as it expects", of_scale=True)


def _confusion(section: Mapping[str, Any]) -> Iterator[Reason]:
    first = next(iter(sequence(section.get("judges"))), section.get("judge"))
    confused = number(mapping(mapping(first).get("realised_fmr")).get("value"))
    if confused is not None and confused > MOST_CONFUSED:
        yield Reason("judge-confuses", f"the judge takes these people for one another in {percent(confused)} of "
                     "comparisons of their real photos, so its matches say little about who is shown", "take a judge "
                     "that tells these people apart, or photos framed as it expects", of_scale=True)


def _evaluators(section: Mapping[str, Any]) -> Iterator[Reason]:
    known = [accuracy for row in map(mapping, sequence(section.get("evaluators")))
             if (accuracy := number(row.get("accuracy"))) is not None]
    if known and max(known) < LEAST_EVALUATOR:
        yield Reason("evaluators-weak", f"no evaluator names more than {percent(max(known))} of real held-out photos "
                     f"right (below {percent(LEAST_EVALUATOR)})", "give evaluators more photos of each person or more "
                     "training steps")


def _prior(head: Headline) -> Iterator[Reason]:
    prior, ceiling = head.prior_ceiling.value, head.ceiling.value
    if prior is not None and ceiling is not None and prior < LEAST_PRIOR * ceiling:
        yield Reason("prior-ceiling", f"the attack's prior, given the true identities, reaches "
                     f"{head.metric.show(prior)} of the {head.metric.show(ceiling)} that real photos reach, less "
                     "than half", "take a prior of the same kind of faces (`latentprint pretrain faces` makes one of "
                     "real ones, `latentprint pretrain prior` of others, or a converted one), or train it longer")


def _at_floor(head: Headline, section: Mapping[str, Any]) -> Iterator[Reason]:
    if head.leak.value is not None and head.has_room and head.leak.value <= 0 and not _control(section):
        yield Reason("at-floor", f"the attack ({head.metric.show(head.attack.value)}) does no better than the floor "
                     f"({head.metric.show(head.floor.value)}), which is made without the model: it may not have worked "
                     "at all", "run it longer or with other settings, or show that it works on a model that leaks "
                     "(`latentprint defend` audits an undefended one beside)")


def _control(section: Mapping[str, Any]) -> bool:
    """Whether the same attack showed a leak of an undefended model that was audited beside this one."""
    rows = [*sequence(section.get("variants")), *sequence(section.get("protections"))][:1]
    beside = [mapping(mapping(section.get("defence")).get("undefended")), *map(mapping, rows)]
    return any(leak.value is not None and grade(leak) is not NO_LEAK
               for leak in (Measured.of(each.get("leak")) for each in beside))


def _disagreement(head: Headline, section: Mapping[str, Any]) -> Iterator[Reason]:
    """Other evidence of a leak that the headline's judge does not see."""
    if grade(head.leak).key not in LOW:
        return
    other = Impersonation.of(section)
    if other is not None and other.leak.value is not None and grade(other.leak).key not in LOW:
        yield Reason("judge-disagrees", f"the attacked recogniser accepts the reconstructions in "
                     f"{percent(other.attack.value)} of comparisons with the person's other photos, the independent "
                     f"judge in {percent(head.attack.value)}: they fool this system, or the judge misses what it sees",
                     "add a judge of another kind (`judges`)")
    arms = mapping(section.get("arms"))
    top1, floor = (Measured.of(mapping(arms.get(arm)).get("top1")) for arm in ("attack", "floor"))
    if top1.low is not None and floor.high is not None and top1.low > floor.high and grade(head.leak) is NO_LEAK:
        yield Reason("judge-disagrees", f"the evaluators name the right person for {percent(top1.value)} of the "
                     f"images, where without the model they do for {percent(floor.value)}, and the judge accepts "
                     f"{percent(head.attack.value)}: the model gave something of its people away that the judge does "
                     "not see", "take a judge that recognises these people, or look at the pictures")
    named = Measured.of(section.get("reidentification"))
    chance = number(mapping(section.get("reidentification")).get("chance"))
    if named.low is not None and chance is not None and named.low > chance:
        yield Reason("judge-disagrees", f"little of the pixels' variance came back, and yet the judge names the right "
                     f"person for {percent(named.value)} of the reconstructions (chance {percent(chance)})",
                     "read the re-identification rate as the leak of identity")


def _too_few(head: Headline) -> Iterator[Reason]:
    if grade(head.leak).key in LOW and head.leak.high is not None and head.leak.high >= MOST_HIDDEN:
        counted = f"{head.leak.n} " if head.leak.n else ""
        yield Reason("too-few", f"the 95% interval of the leak over the {counted}people or images reaches "
                     f"{percent(head.leak.high)}, so a substantial leak is not excluded", "audit more of them")


def _unbounded(head: Headline, section: Mapping[str, Any]) -> Iterator[Reason]:
    """An interval was asked for, and these data do not bound the leak from below: its ends are null in report.json."""
    leak = mapping(section.get("leak"))
    if head.leak.value is not None and "low" in leak and head.leak.low is None:
        counted = f"{head.leak.n} " if head.leak.n else ""
        yield Reason("too-few", f"the {counted}people or images do not bound the leak: its 95% interval has no lower "
                     "end", "audit more of them", of_scale=True)
