"""From pictures to numbers: every arm of an audit through the same evaluators and the same judge.

Protocol. The judge enrols each private person by the training photos; probes are an arm's pictures. Thresholds are
calibrated on people of the ``evaluation`` set (half of each one's photos enrolled, half probing), or, without such a
set, on all real people at hand. Real held-out photos are the ceiling. Intervals are bootstrapped over identities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet, concatenate
from latentprint.data.splits import AuditData
from latentprint.label.classifiers import Classifier, penultimate, scores
from latentprint.metrics.classification import confidence, topk_hits
from latentprint.metrics.distribution import frechet_distance
from latentprint.metrics.features import diversity, nearest_distance
from latentprint.metrics.verification import Calibration, calibrate, enrol
from latentprint.models.attributes import AttributeNetwork, in_batches
from latentprint.models.recognisers import embed
from latentprint.stats import Arm, bootstrap_by_identity, leak_interval

HEADLINE = "identity_match_rate"
STRICT, LOOSE = 1e-3, 1e-2
EXTRACTOR = "attribute network, pooled, 128-d"


@dataclass(frozen=True)
class Recogniser:
    """A recogniser with the private people enrolled and thresholds calibrated."""

    network: nn.Module
    templates: Tensor
    calibration: Calibration
    name: str
    architecture: str


@dataclass(frozen=True)
class Bench:
    """All that judges, made once and used for every arm."""

    data: AuditData
    evaluators: Sequence[Classifier]
    judge: Recogniser
    teacher: Recogniser
    features: AttributeNetwork
    resamples: int
    seed: int


@dataclass(frozen=True)
class ArmScores:
    """Per-picture values of one arm, ``{metric: (N,)}``, with the person each picture is meant to show."""

    values: Mapping[str, np.ndarray]
    classes: np.ndarray
    images: Tensor

    def take(self, keep: np.ndarray) -> ArmScores:
        """Some of the pictures, e.g. those selected by the victim's confidence."""
        return ArmScores({key: value[keep] for key, value in self.values.items()}, self.classes[keep],
                         self.images[torch.from_numpy(keep)])


def enrolled(network: nn.Module, data: AuditData, name: str = "", architecture: str = "") -> Recogniser:
    """Enrol the private people and calibrate the thresholds."""
    train = data.private_train
    templates = enrol(embed(network, train.images), train.labels, train.n_classes)
    if data.evaluation is not None:
        return Recogniser(network, templates, _calibrate_on(network, *_halves(data.evaluation)), name, architecture)
    public = _with_two_photos(data.public)
    first, second = _halves(public)
    enrolment = concatenate(train, first) if public.n_classes else train
    probes = concatenate(data.private_heldout, second) if public.n_classes else data.private_heldout
    return Recogniser(network, templates, _calibrate_on(network, enrolment, probes), name, architecture)


def score(bench: Bench, images: Tensor, classes: Tensor) -> ArmScores:
    """All per-picture metrics of ``images`` (uint8 or [0, 1]) that should show ``classes`` (N,)."""
    values: dict[str, Tensor] = {}
    for key, recogniser in (("judge", bench.judge), ("teacher", bench.teacher)):
        similarity = (embed(recogniser.network, images) * recogniser.templates[classes]).sum(1)
        values[f"similarity_{key}"] = similarity
        if key == "judge":
            thresholds = recogniser.calibration.thresholds
            values[HEADLINE] = _above(similarity, thresholds[STRICT])
            values[f"{HEADLINE}_fmr_0.01"] = _above(similarity, thresholds[LOOSE])
    gallery = bench.data.private_train
    for evaluator in bench.evaluators:
        logits = scores(evaluator.victim, images)
        name = evaluator.name
        values[f"top1_{name}"] = topk_hits(logits, classes, 1).float()
        values[f"top5_{name}"] = topk_hits(logits, classes, min(5, logits.shape[1])).float()
        values[f"confidence_{name}"] = confidence(logits, classes)
        values[f"distance_{name}"] = nearest_distance(penultimate(evaluator.victim, images), classes,
                                                      penultimate(evaluator.victim, gallery.images), gallery.labels)
    names = [evaluator.name for evaluator in bench.evaluators]
    for metric, part in (("top1", "top1"), ("top5", "top5"), ("mean_confidence", "confidence"),
                         ("feature_distance", "distance")):
        values[metric] = torch.stack([values[f"{part}_{name}"] for name in names]).mean(0)
    kept = {key: value for key, value in values.items() if not key.startswith(("top5_", "confidence_", "distance_"))}
    return ArmScores({key: value.double().numpy() for key, value in kept.items()}, classes.numpy(), images)


def arm_section(bench: Bench, arm: ArmScores) -> dict[str, Any]:
    """Metrics of an arm with intervals, for report.json."""
    section: dict[str, Any] = {
        key: bootstrap_by_identity(value, arm.classes, n_resamples=bench.resamples, seed=bench.seed).to_json()
        for key, value in arm.values.items() if np.isfinite(value).all()
    }
    classes, n = torch.from_numpy(arm.classes), bench.data.private_train.n_classes
    spread = diversity(embed(bench.judge.network, arm.images), classes, n)
    known = spread[~spread.isnan()]
    if len(known):
        section["diversity"] = bootstrap_by_identity(known.numpy(), np.arange(len(known)),
                                                     n_resamples=bench.resamples, seed=bench.seed).to_json()
    section["frechet"] = _frechet(bench, arm.images)
    section["n_images"] = len(arm.classes)
    return section


def label_section(bench: Bench, arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    """The channel's section of report.json from the arms ``attack, floor, ceiling, ...``."""
    sections = {name: arm_section(bench, arm) for name, arm in arms.items()}
    section: dict[str, Any] = {"headline": HEADLINE, "arms": sections, "metrics": sections["attack"]}
    for name in ("attack", "floor", "ceiling", "prior_ceiling"):
        section[name] = sections[name].get(HEADLINE, {"value": None, "low": None, "high": None, "n": 0})
    section["leak"] = _leak(bench, arms)
    section["per_identity"] = _per_identity(bench, arms)
    section["evaluators"] = [{"name": e.name, "architecture": e.architecture, "accuracy": e.accuracy, "n": e.n}
                             for e in bench.evaluators]
    section["judge"] = _recogniser_section(bench.judge)
    section["teacher"] = _recogniser_section(bench.teacher)
    return section


def protocol(bench: Bench, images: int, selected: float) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable."""
    facts: dict[str, Any] = {
        "classes": bench.data.private_train.n_classes,
        "images_per_class": images,
        "selection": f"headline unselected; selected: the victim's surest {selected:.0%} of a class",
        "training_photos": len(bench.data.private_train),
        "heldout_photos": len(bench.data.private_heldout),
        "enrolment": "mean embedding of a person's training photos",
        "probes": "reconstructions, or real held-out photos for the ceiling",
        "calibration": "evaluation people" if bench.data.evaluation is not None else "private and public people",
        "evaluators": [e.architecture for e in bench.evaluators],
        "frechet_extractor": EXTRACTOR,
        "interval": f"95% bootstrap over identities, {bench.resamples} resamples",
        "public": bench.data.public.source,
        "private": bench.data.private_train.source,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": "label/v1", "hash": digest, **facts}


def _leak(bench: Bench, arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    if not all(np.isfinite(arms[name].values[HEADLINE]).all() for name in ("attack", "floor", "ceiling")):
        return {"value": None, "low": None, "high": None, "n": 0}
    attack, floor, ceiling = (Arm(arms[name].values[HEADLINE], arms[name].classes)
                              for name in ("attack", "floor", "ceiling"))
    return leak_interval(attack, floor, ceiling, n_resamples=bench.resamples, seed=bench.seed).to_json()


def _per_identity(bench: Bench, arms: Mapping[str, ArmScores]) -> list[dict[str, Any]]:
    def mean(arm: str, metric: str) -> np.ndarray:
        scores = arms[arm]
        n = bench.data.private_train.n_classes
        sums = np.bincount(scores.classes, scores.values[metric], minlength=n)
        return sums / np.maximum(1, np.bincount(scores.classes, minlength=n))

    columns = {
        "match_rate": mean("attack", HEADLINE), "similarity": mean("attack", "similarity_judge"),
        "top1": mean("attack", "top1"), "floor_match_rate": mean("floor", HEADLINE),
        "ceiling_match_rate": mean("ceiling", HEADLINE), "n": np.bincount(arms["attack"].classes),
    }  # fmt: skip
    return [{"identity": name, **{key: float(column[i]) for key, column in columns.items()}}
            for i, name in enumerate(bench.data.private_train.names)]


def _recogniser_section(recogniser: Recogniser) -> dict[str, Any]:
    c = recogniser.calibration
    return {"name": recogniser.name, "architecture": recogniser.architecture,
            "thresholds": {f"{fmr:g}": value for fmr, value in c.thresholds.items()},
            "tar": {f"{fmr:g}": value for fmr, value in c.tar.items()},
            "n_impostor": c.n_impostor, "n_genuine": c.n_genuine}


def _frechet(bench: Bench, images: Tensor) -> dict[str, Any]:
    """Against as many real private photos (the distance is biased with n, so n must be equal)."""
    real = torch.cat([bench.data.private_train.images, bench.data.private_heldout.images])
    n = min(len(images), len(real))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(bench.seed))[:n]
    pictures = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    result = frechet_distance(in_batches(bench.features, pictures[:n], "pooled"),
                              in_batches(bench.features, real[order], "pooled"), EXTRACTOR)
    return {"value": result.value, "extractor": result.extractor, "n": result.n, "reason": result.reason}


def _above(similarity: Tensor, threshold: float) -> Tensor:
    """1 where the threshold is passed; NaN throughout when there is no threshold."""
    if threshold != threshold:
        return torch.full_like(similarity, torch.nan)
    return (similarity > threshold).float()


def _calibrate_on(network: nn.Module, enrolment: ImageSet, probes: ImageSet) -> Calibration:
    templates = enrol(embed(network, enrolment.images), enrolment.labels, enrolment.n_classes)
    return calibrate(embed(network, probes.images), probes.labels, templates, (LOOSE, STRICT))


def _halves(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Every person's first half of photos, and the rest."""
    order = data.labels.argsort(stable=True)
    counts = data.counts()
    place = torch.cat([torch.arange(int(n)) for n in counts]) if len(order) else order
    first = place < (counts[data.labels[order]] + 1) // 2
    return data.take(order[first]), data.take(order[~first])


def _with_two_photos(data: ImageSet) -> ImageSet:
    return data.of_classes((data.counts() >= 2).nonzero().flatten().tolist())
