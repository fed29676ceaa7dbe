"""``latentprint defend template``: the same attack on differently stored templates, and what each costs recognition.

Generators learn once, on unprotected templates. For every protection the adversary, who knows it and its keys, first
looks for the likeliest template (`latentprint.template.recovery`); thresholds are set anew in the protection's terms.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from latentprint.auditing.compare import Case, Comparison
from latentprint.auditing.scores import LEAK_ARMS, UNKNOWN, Json
from latentprint.engine.loop import say
from latentprint.errors import UserError
from latentprint.template.audit import TemplateAudit, recovered_similarity, run_audit
from latentprint.template.defenses import make_scheme
from latentprint.template.evaluate import HEADLINE, IMPERSONATION, ArmScores, arm_section, recognition, score
from latentprint.template.presets import TemplateConfig
from latentprint.template.protection import NoProtection, Protection, described
from latentprint.template.victim import TemplateVictim

run_compared = run_audit


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

    def together(audit: TemplateAudit) -> None:
        intervals, cases = audit.bench.intervals, []
        attacks: list[ArmScores] = []
        for protection in dict.fromkeys([NoProtection(), audit.config.protection, *audit.config.compared]):
            say(f"protection: {described(protection)}")
            case, attack = case_of(audit, protection)
            attacks.append(attack)
            gains: dict[str, Json] = {} if attack is attacks[0] else {
                name: intervals.gain(attacks[0], attack, metric)
                for name, metric in (("recovery_reduction", HEADLINE), ("sar_reduction", IMPERSONATION))}
            cases.append(replace(case, facts={**case.facts, **gains}))
        Comparison("protections", "protection", "tar", "true accept rate", "True accept rate at FMR 1e-3", "Leak",
                   audit.config.recognition_cost).write(audit.section, cases, intervals, out)

    return run_audit(config, out, resume, together)


def case_of(audit: TemplateAudit, protection: Protection) -> tuple[Case, ArmScores]:
    """Attack the templates as a protection stores them; the case and the attack's scores.

    Leak and recovery are by the judge; ``sar_type1`` and ``sar_type2`` by the attacked system as it stores templates.
    Real photos and the mean face are scored anew under every protection.
    """
    scheme = make_scheme(protection, audit.recogniser.dim, audit.config.seed)
    system = audit.system(audit.recogniser, scheme)
    bench = replace(audit.bench, attacked=system)
    victim = TemplateVictim(audit.recogniser, scheme, system.database, audit.inversion.access)
    drawn = audit.inversion.draw(victim)
    arms = {"attack": score(bench, drawn.pictures[drawn.best]),
            **{name: score(bench, audit.arms[name].pictures) for name in ("floor", "ceiling")}}
    metrics = arm_section(bench, arms["attack"])
    facts = {"stored_bits": int(system.database.stored.shape[1] * scheme.bits),
             "recovered_similarity": recovered_similarity(bench, audit.inversion, drawn.recovered),
             "recovery": metrics.get(HEADLINE, dict(UNKNOWN)),
             **{name: metrics[name] for name in metrics if name.startswith(("sar_type1", "sar_type2"))}}
    return Case(described(protection), recognition(system), bench.intervals.leak(arms, HEADLINE),
                [arms[name].arm(HEADLINE) for name in LEAK_ARMS], facts=facts, group=protection.kind), arms["attack"]
