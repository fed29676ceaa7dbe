"""``latentprint defend template``: the same attack on differently stored templates, and what each costs recognition.

Generators learn once, on unprotected templates. For every protection the adversary, who knows it and its keys, first
looks for the likeliest template (`latentprint.template.recovery`); thresholds are set anew in the protection's terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentprint.engine.loop import is_main, say
from latentprint.errors import UserError
from latentprint.report.pareto import Point, advice, pareto_plot
from latentprint.report.values import Measured
from latentprint.template.audit import Audited, recovered_similarity, run_audit
from latentprint.template.defenses import Scheme, make_scheme
from latentprint.template.evaluate import (
    HEADLINE,
    IMPERSONATION,
    UNKNOWN,
    Bench,
    arm_section,
    leak,
    make_system,
    paired,
    recognition,
    score,
)
from latentprint.template.presets import TemplateConfig
from latentprint.template.protection import NoProtection, Protection, described
from latentprint.template.victim import TemplateVictim

#: Arms that a leak is made of; real photos and the mean face are counted anew under every protection.
COUNTED = ("floor", "attack", "ceiling")


def run_defend(config: TemplateConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Audit templates as configured, and compare none, ``protection`` and every one of ``compared``.

    Raises:
        UserError: nothing to compare, or as `run_audit`; found before anything is spent.
    """
    if not config.compared:
        raise UserError("defend template: compared is empty; list some, as in --set 'compared=[{kind: quantise}]', or "
                        "audit templates by 'latentprint audit template'")
    if config.attack.access == "scores":
        raise UserError("defend template: under score access no stored template is known, whatever protects it; take "
                        "attack.access=white-box or transfer")

    def together(audited: Audited) -> None:
        everyone = dict.fromkeys([NoProtection(), audited.config.protection, *audited.config.compared])
        found = [compared(audited, protection) for protection in everyone]
        audited.section["protections"] = rows(audited.bench, found)
        listed = points(audited.section["protections"])
        if best := advice(listed, audited.config.recognition_cost, "true accept rate"):
            audited.section["recommended"] = best
        picture = audited.folder / "images" / "pareto.png"
        if is_main() and pareto_plot(listed, picture, "Leak", "True accept rate at FMR 1e-3"):
            audited.section["variant_figures"] = [
                {"file": "images/pareto.png", "title": "Recognition against leak", "caption": (
                    "One point per protection, with 95% intervals. Dashed: the Pareto front, the protections that no "
                    "other dominates.")}]

    return run_audit(config, out, resume, together)


class Found:
    """One protection's results."""

    def __init__(self, audited: Audited, protection: Protection, scheme: Scheme) -> None:
        self.protection, self.scheme = protection, scheme
        attacked = make_system(audited.parts.recogniser.name, audited.parts.recogniser, scheme, audited.parts.data,
                               audited.parts.by)
        self.bench = Bench(attacked, audited.bench.judges, audited.bench.photos, audited.bench.gallery,
                           audited.bench.perceptual, audited.bench.resamples, audited.bench.seed)
        victim = TemplateVictim(audited.parts.recogniser, scheme, attacked.database, audited.inversion.access)
        drawn = audited.inversion.draw(victim)
        self.recovered = recovered_similarity(self.bench, audited.inversion, drawn.recovered)
        pictures = {"attack": drawn.pictures[drawn.best], "floor": audited.arms["floor"].pictures,
                    "ceiling": audited.arms["ceiling"].pictures}
        self.arms = {name: score(self.bench, pictures[name]) for name in COUNTED}
        self.accepted = recognition(attacked)


def compared(audited: Audited, protection: Protection) -> Found:
    """Attack templates stored under a protection."""
    say(f"protection: {described(protection)}")
    return Found(audited, protection, make_scheme(protection, audited.parts.recogniser.dim, audited.config.seed))


def rows(bench: Bench, found: Sequence[Found]) -> list[dict[str, Any]]:
    """For report.json a row a protection; differences are from the first, paired photo by photo.

    Leak and recovery are by the judge; ``sar_type1`` and ``sar_type2`` by the attacked system as it stores templates.
    """
    first = found[0]
    table = []
    for each in found:
        system = each.bench.attacked
        metrics = arm_section(each.bench, each.arms["attack"])
        row: dict[str, Any] = {
            "name": described(each.protection), "stored_bits": int(system.database.stored.shape[1] * each.scheme.bits),
            "tar": bench.mean(each.accepted, system.genuine_owners), "recovered_similarity": each.recovered,
            "leak": leak(each.bench, each.arms), "recovery": metrics.get(HEADLINE, UNKNOWN),
            **{name: metrics[name] for name in metrics if name.startswith(("sar_type1", "sar_type2"))}}
        if each is not first:
            row["tar_cost"] = bench.mean(first.accepted - each.accepted, system.genuine_owners)
            row["recovery_reduction"] = paired(bench, first.arms["attack"], each.arms["attack"])
            row["sar_reduction"] = paired(bench, first.arms["attack"], each.arms["attack"], IMPERSONATION)
        table.append(row)
    return table


def points(table: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The rows as points of recognition and leak."""
    return [Point(row["name"], Measured.of(row["tar"]), Measured.of(row["leak"]), row["name"].partition("(")[0])
            for row in table]
