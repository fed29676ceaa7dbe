"""Several victims of the label channel side by side: the same people, seeds, attack, judge and evaluators for all.

``defend label`` compares the undefended victim with the defended one, whose run directory it is; the undefended audit,
a run of its own, lies in ``undefended/``. ``variants``, of ``audit label`` too, are further victims, under
``variants/``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from latentprint.auditing.compare import AS_CONFIGURED, DEFENDED, UNDEFENDED, Case, Comparison, audit_beside
from latentprint.auditing.scores import LEAK_ARMS, Values
from latentprint.config import changed
from latentprint.errors import UserError
from latentprint.label.audit import LabelAudit, audit_data, load_models, run_audit
from latentprint.label.classifiers import hits
from latentprint.label.evaluate import HEADLINE
from latentprint.label.presets import LabelConfig
from latentprint.label.protection import DPSGDConfig, NoDefence

#: Phases, as patterns, that both audits train alike: evaluators, and the fitted codec and prior.
SHARED = ("evaluator-*", "adapt-*")
#: What the report says of the undefended victim beside the defended one.
BESIDE = ("leak", "attack", "floor", "ceiling", "pseudo_label")


def run_compared(config: LabelConfig, out: Path, resume: bool = False, own: str = AS_CONFIGURED) -> dict[str, Any]:
    """Audit the victim as configured, called ``own``, and beside it ``variants`` where there are any."""
    return _run(config, out, resume, own) if config.variants else run_audit(config, out, resume)


def run_defend(config: LabelConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train and audit the undefended and the defended victim, and ``variants``; returns the defended one's report.

    Raises:
        UserError: no defence is named, or as `run_audit`; what concerns the defence is found before anything is spent.
        RunFailed: training broke down.
    """
    if isinstance(config.defence, NoDefence):
        raise UserError("defend label: defence.kind is none; choose label-smoothing, bido or dp-sgd, or audit an "
                        "undefended victim by 'latentprint audit label'")
    return _run(config, out, resume, DEFENDED, beside_undefended=True)


def _run(config: LabelConfig, out: Path, resume: bool, own: str, beside_undefended: bool = False) -> dict[str, Any]:
    plain = config.model_copy(update={"variants": {}})
    victims = [(own, plain), *((name, changed(plain, overrides, f"variants.{name}"))
                               for name, overrides in config.variants.items())]
    if beside_undefended:
        victims = [(UNDEFENDED, plain.model_copy(update={"defence": NoDefence()})), *victims]
    # DP-SGD changes the layers of its victim; other defences take no part in its warm start.
    warm_phase = [] if isinstance(config.defence, DPSGDConfig) else ["victim-warm"]

    def finished(folder: Path) -> None:
        if folder == out / UNDEFENDED:
            share_checkpoints(folder, out, (*SHARED, *warm_phase))

    def together(audit: LabelAudit, cases: Sequence[Case]) -> None:
        comparison = Comparison("variants", "victim", "accuracy", "accuracy", "Accuracy", "Leak", config.accuracy_cost)
        if config.variants:
            comparison.write(audit.section, cases, audit.bench.intervals, out)
        if beside_undefended:
            before, after, *_ = comparison.rows(cases[:2], audit.bench.intervals)
            audit.section["defence"] |= {
                "undefended_accuracy": before["accuracy"],
                **{key: after[key] for key in ("accuracy", "accuracy_cost", "leak_reduction")},
                "undefended": {**{key: before[key] for key in BESIDE}, "report": f"{UNDEFENDED}/"}}

    return audit_beside(run_audit, victims, own, out, resume, case=case_of, together=together, finished=finished,
                        place=lambda name: name if name == UNDEFENDED else f"variants/{name}",
                        check=lambda each: load_models(each, audit_data(each)[0]))


def case_of(name: str, audit: LabelAudit) -> Case:
    """One victim of a comparison; images are paired by class, seed and attribute image."""
    section, heldout = audit.section, audit.data.private_heldout
    right = Values(hits(audit.victim.victim, heldout).double().numpy(), heldout.labels.numpy())
    defence = audit.config.defence
    facts = {"defences": "" if isinstance(defence, NoDefence) else defence.kind,
             **{key: section[key] for key in LEAK_ARMS},
             "pseudo_label": section["arms"]["pseudo_label"].get(HEADLINE)}
    return Case(name, right, section["leak"], [audit.arms[arm].arm(HEADLINE) for arm in LEAK_ARMS],
                f"{section['protocol']['hash']} {audit.config.seed}", facts, str(facts["defences"]))


def share_checkpoints(source: Path, target: Path, shared: Iterable[str] = SHARED) -> None:
    """Copy the phases ``shared``, which both audits train alike, so that they are trained once."""
    folder = target / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for phase in [each for pattern in shared for each in source.glob(f"checkpoints/{pattern}")]:
        if not (folder / phase.name).exists():
            fresh = folder / f"{phase.name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(phase, fresh)
            fresh.rename(folder / phase.name)
