"""From pictures to numbers: every arm of an audit through the same evaluators and the same judge.

Protocol. The judge enrols each private person by as many training photos as its thresholds were calibrated for (see
`latentprint.verification`); probes are an arm's pictures. Real held-out photos are the ceiling. Intervals are over
identities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint import checks
from latentprint.auditing.scores import UNKNOWN, Intervals, Values, per_unit
from latentprint.auditing.scores import protocol as stamped
from latentprint.data import room
from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.label.baselines.settings import ARM_KEYS
from latentprint.label.classifiers import Classifier, penultimate, scores
from latentprint.metrics.distribution import Frechet, frechet_distance
from latentprint.metrics.features import confidence, diversity, nearest_distance, topk_hits
from latentprint.metrics.perceptual import EmbeddedDistance
from latentprint.models.answers import readings
from latentprint.models.attributes import AttributeReader, in_batches
from latentprint.models.recognisers import embed
from latentprint.registry import PREFIX
from latentprint.types import Reconstruction
from latentprint.verification import LOOSE, STRICT, Recogniser

HEADLINE = "identity_match_rate"
#: Recogniser and images ``(N, 3, H, W)`` to embeddings ``(N, D)``.
Embeddings = Callable[[nn.Module, Tensor], Tensor]
#: Metrics within [0, 1] begin so.
RATES = (HEADLINE, "top1", "top5", "mean_confidence")
#: Principal axes of the attribute network's features in which Frechet distances are taken: 64 pictures suffice.
AXES = 32


@dataclass(frozen=True)
class Bench:
    """All that judges, made once and used for every arm."""

    data: AuditData
    evaluators: Sequence[Classifier]
    judge: Recogniser
    teacher: Recogniser
    features: AttributeReader
    resamples: int
    seed: int

    @property
    def intervals(self) -> Intervals:
        return Intervals(self.resamples, self.seed, RATES)

    @property
    def extractor(self) -> str:
        """What Fréchet distances are taken in."""
        return f"{self.features.name}, pooled, {AXES} axes"

    @cached_property
    def galleries(self) -> list[Tensor]:
        """Penultimate features ``(N, D)`` of the private training photos, one tensor an evaluator."""
        return [penultimate(evaluator.victim, self.data.private_train.images) for evaluator in self.evaluators]

    @cached_property
    def reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Private training photos ``(N, AXES)``, public ones ``(M, AXES)``, and the axes ``(D, AXES)`` of both."""
        private, public = (readings(self.features, images, "pooled")
                           for images in (self.data.private_train.images, self.data.public.images))
        real = torch.cat([private, public])
        _, _, vectors = torch.linalg.svd(real - real.mean(0), full_matrices=False)
        axes = vectors[:AXES].T
        return private @ axes, public @ axes, axes


@dataclass(frozen=True)
class ArmScores:
    """Per-picture values of one arm, ``{metric: (N,)}``, with the person each picture is meant to show."""

    values: Mapping[str, np.ndarray]
    classes: np.ndarray
    images: Tensor

    def arm(self, metric: str) -> Values:
        """Values and people of a metric."""
        return Values(self.values[metric], self.classes)

    def take(self, keep: np.ndarray) -> ArmScores:
        """Some of the pictures, e.g. those selected by the victim's confidence."""
        return ArmScores({key: value[keep] for key, value in self.values.items()}, self.classes[keep],
                         self.images[torch.from_numpy(keep)])


def score(bench: Bench, images: Tensor, classes: Tensor, seen: Embeddings = embed) -> ArmScores:
    """All per-picture metrics of ``images`` (uint8 or [0, 1]) that should show ``classes`` (N,).

    Args:
        seen: how recognisers are asked: ``embed`` about generated pictures, ``embeddings`` about photos.

    Raises:
        UserError: float images that are not within [0, 1].
    """
    if images.dtype != torch.uint8:
        checks.image_range(images, "pictures to score")
    values: dict[str, Tensor] = {}
    for key, recogniser in (("judge", bench.judge), ("teacher", bench.teacher)):
        similarity = (seen(recogniser.network, images) * recogniser.templates[classes]).sum(1)
        values[f"similarity_{key}"] = similarity
        if key == "judge":
            values[HEADLINE] = recogniser.accepts(similarity)
            values[f"{HEADLINE}_fmr_0.01"] = recogniser.accepts(similarity, LOOSE)
    people = bench.data.private_train.labels
    for evaluator, gallery in zip(bench.evaluators, bench.galleries, strict=True):
        logits = scores(evaluator.victim, images)
        name = evaluator.name
        values[f"top1_{name}"] = topk_hits(logits, classes, 1).float()
        values[f"top5_{name}"] = topk_hits(logits, classes, min(5, logits.shape[1])).float()
        values[f"confidence_{name}"] = confidence(logits, classes)
        values[f"distance_{name}"] = nearest_distance(penultimate(evaluator.victim, images), classes, gallery, people)
    names = [evaluator.name for evaluator in bench.evaluators]
    for metric, part in (("top1", "top1"), ("top5", "top5"), ("mean_confidence", "confidence"),
                         ("feature_distance", "distance")):
        values[metric] = torch.stack([values[f"{part}_{name}"] for name in names]).mean(0)
    kept = {key: value for key, value in values.items() if not key.startswith(("top5_", "confidence_", "distance_"))}
    return ArmScores({key: value.double().numpy() for key, value in kept.items()}, classes.numpy(), images)


def score_swaps(bench: Bench, made: Reconstruction, public: ImageSet) -> ArmScores:
    """`score`, and of swaps how well each kept what it was to keep of its attribute image.

    ``attribute_error`` is the mean difference of the attribute network's ten readings, each about [-1, 1];
    ``perceptual`` the formula of LPIPS on that network's features.
    """
    arm = score(bench, made.images, made.classes)
    if bool((made.attribute_index < 0).any()):
        return arm
    pictures = _bytes(made.images)
    images = room.selected(public.images, made.attribute_index)
    apart = (in_batches(bench.features, pictures) - in_batches(bench.features, images)).abs().mean(1)
    distance = EmbeddedDistance(bench.features)(pictures.float() / 255, images.float() / 255)
    return replace(arm, values={**arm.values, "attribute_error": apart.double().numpy(),
                                "perceptual": distance.double().numpy()})


def arm_section(bench: Bench, arm: ArmScores) -> dict[str, Any]:
    """Metrics of an arm with intervals, for report.json."""
    section: dict[str, Any] = {
        key: bench.intervals.metric(key, arm.arm(key))
        for key, value in arm.values.items() if np.isfinite(value).all()
    }
    classes, n = torch.from_numpy(arm.classes), bench.data.private_train.n_classes
    spread = diversity(embed(bench.judge.network, arm.images), classes, n)
    known = spread[~spread.isnan()]
    if len(known):
        section["diversity"] = bench.intervals.mean(Values(known.numpy(), np.arange(len(known))))
    section["frechet"] = _frechet(bench, arm.images)
    section["n_images"] = len(arm.classes)
    return section


def label_section(bench: Bench, arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    """The channel's section of report.json from the arms ``attack, floor, ceiling, ...``."""
    sections, intervals = {name: arm_section(bench, arm) for name, arm in arms.items()}, bench.intervals
    section: dict[str, Any] = {"headline": HEADLINE, "arms": sections, "metrics": sections["attack"]}
    for name in ("attack", "floor", "ceiling", "prior_ceiling"):
        section[name] = sections[name].get(HEADLINE, dict(UNKNOWN))
    section["leak"] = intervals.leak(arms, HEADLINE)
    if "pseudo_label" in arms:
        section["gain_over_pseudo_label"] = intervals.gain(arms["attack"], arms["pseudo_label"], HEADLINE)
    section["gain_over"] = {key: intervals.gain(arms["attack"], arms[key], HEADLINE) for key in arms
                            if key in ARM_KEYS.values() or key.startswith(PREFIX)}
    section["grid_caption"] = grid_caption(int(np.bincount(arms["attack"].classes).max()))
    section["per_identity"] = _per_identity(bench, arms)
    if groups := _per_group(bench, arms):
        section["per_group"] = groups
    section["evaluators"] = [{"name": e.name, "architecture": e.architecture, "accuracy": e.accuracy, "n": e.n,
                              **e.origin} for e in bench.evaluators]
    section["judge"] = bench.judge.section()
    section["teacher"] = bench.teacher.section()
    return section


def protocol(bench: Bench, images: int, selected: float, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable; ``more``: further facts."""
    facts: dict[str, Any] = {
        "classes": bench.data.private_train.n_classes,
        "images_per_class": images,
        "selection": f"headline unselected; selected: the victim's surest {selected:.0%} of a class",
        "training_photos": len(bench.data.private_train),
        "heldout_photos": len(bench.data.private_heldout),
        "public_photos": len(bench.data.public),
        "enrolment": f"mean embedding of a person's first {bench.judge.photos} training photos",
        "probes": "reconstructions, or real held-out photos for the ceiling",
        "calibration": bench.judge.people,
        "fmr": STRICT,
        "judge_weights": checks.weights_hash(bench.judge.network)[:12],
        "teacher_weights": checks.weights_hash(bench.teacher.network)[:12],
        "evaluators": [e.architecture if e.warm is None else f"{e.architecture} after {e.warm}"
                       for e in bench.evaluators],
        "frechet_extractor": bench.extractor,
        "interval": f"95% over identities, {bench.resamples} resamples: Gaffke's of rates, bootstrap of others",
        "public": bench.data.public.source,
        "private": bench.data.private_train.source, **(more or {}),
    }
    return stamped("label/v1", facts)


def grid_caption(images: int) -> str:
    """Which of each person's ``images`` the grid shows; empty where there is only one."""
    if images == 1:
        return ""
    return (f"Shown: the image with the highest victim confidence of each person's {images}. "
            f"The headline uses all {images}.")


def _per_group(bench: Bench, arms: Mapping[str, ArmScores]) -> list[dict[str, Any]]:
    """Leak, headline by arm and Top-1 of each group of people; nothing to say of fewer than two groups."""
    groups = bench.data.private_train.groups or ()
    if len(set(groups)) < 2:
        return []
    rows, intervals = [], bench.intervals
    for group in dict.fromkeys(groups):
        member = np.array([each == group for each in groups])
        own = {name: arm.take(member[arm.classes]) for name, arm in arms.items()}
        row: dict[str, Any] = {"group": group, "n": int(member.sum()), "leak": intervals.leak(own, HEADLINE)}
        row |= {name: intervals.rate(own[name].arm(HEADLINE))
                for name in ("attack", "floor", "prior_ceiling", "ceiling") if name in own}
        rows.append(row | {"top1": intervals.rate(own["attack"].arm("top1"))})
    return rows


def _per_identity(bench: Bench, arms: Mapping[str, ArmScores]) -> list[dict[str, Any]]:
    n = bench.data.private_train.n_classes
    columns = {key: per_unit(arms[arm].arm(metric), n) for key, arm, metric in (
        ("match_rate", "attack", HEADLINE), ("similarity", "attack", "similarity_judge"), ("top1", "attack", "top1"),
        ("floor_match_rate", "floor", HEADLINE), ("ceiling_match_rate", "ceiling", HEADLINE))}
    counts = np.bincount(arms["attack"].classes, minlength=n)
    return [{"identity": name, **{key: column[i] for key, column in columns.items()}, "n": float(counts[i])}
            for i, name in enumerate(bench.data.private_train.names)]


def _frechet(bench: Bench, images: Tensor) -> dict[str, Any]:
    """Against as many private training photos; of the larger side a seeded sample, for the distance falls with n.

    ``gap`` is that distance less the one to as many public photos, where there are as many: how much worse the pictures
    suit the private people than those the prior learned from (seed 000, section 4.4).
    """
    private, public, axes = bench.reference
    n = min(len(images), len(private))
    pictures = in_batches(bench.features, _bytes(_sample(images, n, bench.seed)), "pooled") @ axes

    def distance(real: Tensor) -> Frechet:
        return frechet_distance(pictures, _sample(real, n, bench.seed), bench.extractor)

    result, known = distance(private), distance(public).value if len(public) >= n else None
    gap = None if result.value is None or known is None else result.value - known
    return {"value": result.value, "extractor": result.extractor, "n": result.n, "reason": result.reason, "gap": gap}


def _bytes(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def _sample(rows: Tensor, n: int, seed: int) -> Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]]
