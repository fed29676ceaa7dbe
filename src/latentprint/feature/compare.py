"""Several victims on one page: accuracy, what is sent, what the best attack recovers, and which to take.

``defend feature`` compares the undefended victim, the defended one and ``variants``; ``audit feature`` with
``variants`` compares cuts, networks or anything else. The run directory is that of the victim as configured; each other
one is a run of its own under ``variants/``. Data, seeds, attacks and attacked images are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from latentprint.config import changed
from latentprint.engine.loop import is_main
from latentprint.engine.run import check_out
from latentprint.errors import UserError
from latentprint.feature.audit import Audited, run_audit
from latentprint.feature.build import load_images, make_victim
from latentprint.feature.pictures import victims_sheet
from latentprint.feature.presets import FeatureConfig
from latentprint.feature.protection import CEMConfig, DefenceConfig, described
from latentprint.report.html import render_run
from latentprint.report.pareto import Point, advice, pareto_plot
from latentprint.report.values import Measured
from latentprint.stats import Arm, difference_interval, leak_interval

DEFENCES: TypeAdapter[list[DefenceConfig]] = TypeAdapter(list[DefenceConfig])
UNDEFENDED, AS_CONFIGURED = "undefended", "as configured"


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
    return _run(config, out, resume, {UNDEFENDED: {"defences": []}}, "defended")


def _run(config: FeatureConfig, out: Path, resume: bool, first: Mapping[str, Mapping[str, Any]],
         own: str) -> dict[str, Any]:
    if is_main():
        check_out(out, resume)
    plain = config.model_copy(update={"variants": {}})
    _checked([*first, own, *config.variants])
    others = {name: changed(plain, overrides, f"variants.{name}")
              for name, overrides in {**first, **config.variants}.items()}
    for each in (plain, *others.values()):
        make_victim(each, load_images(each.data)[0].train)
    found: dict[str, Audited] = {}
    for name, settings in others.items():
        folder = out / "variants" / _slug(name)
        run_audit(settings, folder, resume, partial(found.__setitem__, name))
        if is_main():
            render_run(folder)

    def together(audited: Audited) -> None:
        found[own] = audited
        everyone = {name: found[name] for name in (*first, own, *config.variants)}
        audited.section["variants"] = rows(everyone)
        best = advice(points(audited.section["variants"]), config.accuracy_cost, "accuracy")
        if best:
            audited.section["recommended"] = best
        if is_main():
            audited.section["variant_figures"] = draw_comparison(everyone, audited.section["variants"], out / "images")

    return run_audit(config, out, resume, together)


def draw_comparison(found: Mapping[str, Audited], table: Sequence[Mapping[str, Any]],
                    folder: Path) -> list[dict[str, str]]:
    """What is recovered from each, and accuracy against leak, for the report."""
    listed = []
    first = next(iter(found.values()))
    alike = {name: audited.drawn for name, audited in found.items() if audited.digest == first.digest}
    if len(alike) > 1:
        victims_sheet(first.real, alike, folder / "victims.png")
        listed.append({"file": "images/victims.png", "title": "What is recovered from each",
                       "caption": "Images by the best attack, a row per victim. Numbers: peak signal-to-noise ratio."})
    if pareto_plot(points(table), folder / "pareto.png", "Variance recovered by the best attack"):
        listed.append({"file": "images/pareto.png", "title": "Accuracy against leak", "caption": (
            "A point per victim, with 95% intervals. Dashed: the Pareto front, victims that no other dominates.")})
    return listed


def rows(found: Mapping[str, Audited]) -> list[dict[str, Any]]:
    """For report.json a row a victim; differences are from the first, paired image by image."""
    first = next(iter(found.values()))
    return [{"name": name, "cut": audited.section["victim"]["cut"], **_named(audited.section["defences"]),
             "accuracy": audited.section["accuracy"], "leak": audited.section["leak"],
             "best_attack": audited.section["best_attack"], "bytes": audited.section["cost"]["bytes_float32"],
             **{key: audited.section["metrics"][key] for key in ("mse", "ssim") if key in audited.section["metrics"]},
             **({} if audited is first else {"leak_reduction": leak_reduction(first, audited),
                                             "accuracy_cost": accuracy_cost(first, audited)})}
            for name, audited in found.items()]


def leak_reduction(before: Audited, after: Audited) -> dict[str, Any] | None:
    """Variance recovered from the first victim minus that from the other, each by its best attack, over the same
    images; None when other images were attacked."""
    if before.digest != after.digest:
        return None
    a, b, floor = before.errors, after.errors, before.floor
    found = leak_interval(Arm(b - a - floor, before.units), Arm(-floor, before.units), Arm(0 * floor, before.units),
                          n_resamples=before.judged.resamples, seed=before.judged.seed)
    return found.to_json()


def accuracy_cost(before: Audited, after: Audited) -> dict[str, Any] | None:
    """Accuracy of the first victim minus that of the other, over the same images."""
    if len(before.hits) != len(after.hits):
        return None
    return difference_interval(before.hits - after.hits, before.hit_units, n_resamples=before.judged.resamples,
                               seed=before.judged.seed).to_json()


def points(table: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The rows as points of accuracy and leak; those of one surrogate, otherwise alike, share a colour."""
    return [Point(row["name"], Measured.of(row["accuracy"]), Measured.of(row["leak"]),
                  f"{row['cut']} {row['bytes']} {row['without_cem']} {row['surrogate']}") for row in table]


def _named(dumps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What defends, and of it the surrogate of the conditional entropy and all else: by both, rows make families."""
    defences = DEFENCES.validate_python(dumps)
    return {"defences": described(defences),
            "surrogate": " + ".join(each.surrogate.kind for each in defences if isinstance(each, CEMConfig)),
            "without_cem": described([each for each in defences if not isinstance(each, CEMConfig)])}


def _checked(names: Sequence[str]) -> None:
    slugs = [_slug(name) for name in names]
    if not all(slugs) or len(set(slugs)) != len(slugs):
        raise UserError(f"variants: names must hold letters or digits and differ in them; got {', '.join(names)}")


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")
