"""``latentprint defend label``: the same audit of an undefended and of a defended victim, compared person by person.

The run directory is that of the defended victim; the undefended audit, a run of its own, lies in ``undefended/``.
People, seeds, attack, judge and evaluators are the same, so whatever differs is the defence's doing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentprint.engine.loop import accelerator, is_main
from latentprint.engine.run import check_out
from latentprint.errors import UserError
from latentprint.label.audit import Audited, audit_data, load_models, run_audit
from latentprint.label.classifiers import hits
from latentprint.label.evaluate import HEADLINE
from latentprint.label.presets import PRESETS, LabelConfig
from latentprint.label.protection import DPSGDConfig, NoDefence
from latentprint.report.html import render_run
from latentprint.stats import Arm, difference_interval, leak_reduction_interval, rate_interval

UNDEFENDED = "undefended"
#: Phases, as patterns, that both audits train alike: evaluators, and the fitted codec and prior.
SHARED = ("evaluator-*", "adapt-*")
DEFEND_PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {**preset, "defence": {"kind": "label-smoothing"}} for name, preset in PRESETS.items()
}


def run_defend(config: LabelConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train and audit the undefended and the defended victim; returns the defended one's report, with both compared.

    Raises:
        UserError: no defence is named, or as `run_audit`; what concerns the defence is found before anything is spent.
        RunFailed: training broke down.
    """
    if isinstance(config.defence, NoDefence):
        raise UserError("defend label: defence.kind is none; choose label-smoothing, bido or dp-sgd, or audit an "
                        "undefended victim by 'latentprint audit label'")
    if is_main():
        check_out(out, resume)
    load_models(config, audit_data(config)[0])
    found: list[Audited] = []
    # DP-SGD changes the layers of its victim; other defences take no part in its warm start.
    warm_phase = [] if isinstance(config.defence, DPSGDConfig) else ["victim-warm"]
    run_audit(config.model_copy(update={"defence": NoDefence()}), out / UNDEFENDED, resume, found.append)
    if is_main():
        render_run(out / UNDEFENDED)
        share_checkpoints(out / UNDEFENDED, out, (*SHARED, *warm_phase))
    accelerator().wait_for_everyone()
    return run_audit(config, out, resume, lambda after: after.section["defence"].update(compared(found[0], after)))


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


def compared(before: Audited, after: Audited) -> dict[str, Any]:
    """What the defence cost and bought, for report.json: differences are paired, intervals over identities.

    Returns:
        ``accuracy``, ``undefended_accuracy`` and their difference ``accuracy_cost`` on held-out photos;
        ``undefended``, the other audit's headline numbers; and ``leak_reduction``.
    """
    heldout = after.bench.data.private_heldout
    right = [hits(found.victim.victim, heldout).double().numpy() for found in (before, after)]
    section = before.section
    return {
        "accuracy": _interval(after, right[1], heldout.labels.numpy()),
        "undefended_accuracy": _interval(after, right[0], heldout.labels.numpy()),
        "accuracy_cost": difference_interval(right[0] - right[1], heldout.labels.numpy(),
                                             n_resamples=after.bench.resamples, seed=after.bench.seed).to_json(),
        "undefended": {**{key: section[key] for key in ("leak", "attack", "floor", "ceiling")},
                       "pseudo_label": section["arms"]["pseudo_label"].get(HEADLINE), "report": f"{UNDEFENDED}/"},
        "leak_reduction": leak_reduction(before, after),
    }


def leak_reduction(before: Audited, after: Audited) -> dict[str, float | int | None]:
    """Leak of the undefended minus that of the defended victim, the same identities drawn for both.

    Pictures are paired: the same class, seed and attribute image. Both audits have the same floor and ceiling.
    """
    attacks = [found.arms["attack"].values[HEADLINE] for found in (before, after)]
    floor, ceiling = after.arms["floor"], after.arms["ceiling"]
    ends = [floor.values[HEADLINE], ceiling.values[HEADLINE]]
    if not all(np.isfinite(values).all() for values in (*attacks, *ends)):
        return {"value": None, "low": None, "high": None, "n": 0}
    gap = Arm(attacks[0] - attacks[1], after.arms["attack"].classes)
    return leak_reduction_interval(gap, Arm(ends[0], floor.classes), Arm(ends[1], ceiling.classes),
                                   n_resamples=after.bench.resamples, seed=after.bench.seed).to_json()


def _interval(found: Audited, values: np.ndarray, people: np.ndarray) -> dict[str, float | int | None]:
    return rate_interval(values, people, n_resamples=found.bench.resamples, seed=found.bench.seed).to_json()
