"""Several victims on one page: accuracy, what is sent, what the best attack recovers, and which to take.

``defend feature`` compares the undefended victim, the defended one and ``variants``; ``audit feature`` with
``variants`` compares cuts, networks or anything else. The run directory is that of the victim as configured; each other
one is a run of its own under ``variants/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentprint.auditing.compare import AS_CONFIGURED, DEFENDED, UNDEFENDED, Case, Comparison, audit_beside
from latentprint.auditing.scores import Values
from latentprint.config import changed
from latentprint.engine.loop import is_main
from latentprint.errors import UserError
from latentprint.feature.audit import FeatureAudit, run_audit
from latentprint.feature.build import load_images, make_victim
from latentprint.feature.pictures import shown, victims_sheet
from latentprint.feature.presets import FeatureConfig
from latentprint.feature.protection import CEMConfig, DefenceConfig, described
from latentprint.metrics.reconstruction import variance_recovered


def run_compared(config: FeatureConfig, out: Path, resume: bool = False, own: str = AS_CONFIGURED) -> dict[str, Any]:
    """Audit the victim as configured, called ``own``, and beside it ``variants`` where there are any."""
    return _run(config, out, resume, {}, own) if config.variants else run_audit(config, out, resume)


def run_defend(config: FeatureConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train and audit the undefended and the defended victim, and ``variants``; returns the defended one's report.

    Raises:
        UserError: no defence, or as `run_audit`; found before anything is spent.
    """
    if not config.defences:
        raise UserError("defend feature: defences is empty; list some, as in --set 'defences=[{kind: noise}]', or "
                        "audit an undefended victim by 'latentprint audit feature'")
    return _run(config, out, resume, {UNDEFENDED: {"defences": []}}, DEFENDED)


def _run(config: FeatureConfig, out: Path, resume: bool, first: Mapping[str, Mapping[str, Any]],
         own: str) -> dict[str, Any]:
    plain = config.model_copy(update={"variants": {}})
    victims = [*((name, changed(plain, overrides, f"variants.{name}")) for name, overrides in first.items()),
               (own, plain),
               *((name, changed(plain, overrides, f"variants.{name}")) for name, overrides in config.variants.items())]
    drawn: dict[str, Tensor] = {}

    def case(name: str, audit: FeatureAudit) -> Case:
        drawn[name] = audit.reconstructions[shown(audit.judged, audit.best.reported_on)]
        return case_of(name, audit)

    def together(audit: FeatureAudit, cases: Sequence[Case]) -> None:
        this = next(each for each in cases if each.name == own)
        alike = {each.name: drawn[each.name] for each in cases if each.attacked == this.attacked}
        if is_main() and len(alike) > 1:
            real = audit.attacked.floats(shown(audit.judged, audit.best.reported_on))
            victims_sheet(real, alike, out / "images" / "victims.png")
            audit.section["variant_figures"] = [{
                "file": "images/victims.png", "title": "What is recovered from each",
                "caption": "Images by the best attack, a row per victim. Numbers: peak signal-to-noise ratio."}]
        Comparison("variants", "victim", "accuracy", "accuracy", "Accuracy", "Variance recovered by the best attack",
                   config.accuracy_cost).write(audit.section, cases, audit.judged.intervals, out)

    return audit_beside(run_audit, victims, own, out, resume, case=case, together=together,
                        check=lambda each: make_victim(each, load_images(each.data)[0].train))


def case_of(name: str, audit: FeatureAudit) -> Case:
    """One victim of a comparison; its leak is the share of variance that the best attack recovers."""
    section, kept = audit.section, audit.best.reported_on
    found = variance_recovered(audit.reconstructions[kept], audit.attacked.floats(kept), audit.judged.mean)
    errors, floor = (values.double().numpy() for values in (found.errors, found.floor))
    units, metrics = audit.judged.units(kept), section["metrics"]
    facts = {"cut": audit.split.cut, **_named(audit.config.defences), "best_attack": audit.best.name,
             "bytes": section["cost"]["bytes_float32"],
             **{key: metrics[key] for key in ("mse", "ssim") if key in metrics}}
    arms = [Values(values, units) for values in (-errors, -floor, 0 * floor)]
    return Case(name, audit.right, section["leak"], arms,
                hashlib.sha256(audit.attacked.images[kept].numpy().tobytes()).hexdigest(), facts,
                f"{facts['cut']} {facts['bytes']} {facts['without_cem']} {facts['surrogate']}")


def _named(defences: Sequence[DefenceConfig]) -> dict[str, str]:
    """What defends, and of it the surrogate of the conditional entropy and all else: by both, rows make families."""
    return {"defences": described(defences),
            "surrogate": " + ".join(each.surrogate.kind for each in defences if isinstance(each, CEMConfig)),
            "without_cem": described([each for each in defences if not isinstance(each, CEMConfig)])}
