"""``latentprint audit label --check``: everything that an audit rests on, looked at before anything long starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.engine.settings import settled
from latentprint.findings import Row
from latentprint.label.audit import Models, audit_data, load_models
from latentprint.label.classifiers import is_trained_here, scores
from latentprint.label.preprocessings import COMPARED, best_other, preprocessing_flag
from latentprint.label.presets import LabelConfig
from latentprint.label.probe import (
    LEVEL,
    SERVICE_PHOTOS,
    better_than_chance,
    chance_flag,
    hits_of,
    is_service,
    probe,
)
from latentprint.label.sight import sight
from latentprint.probes import spread
from latentprint.report.conclusive import MOST_HIDDEN
from latentprint.stats import success_rate
from latentprint.types import Access
from latentprint.victim import Victim


def check_audit(config: LabelConfig, out: Path | None = None) -> list[Row]:
    """What is there and how it does. All is well when no row has ``ok`` False.

    Args:
        out: a folder for the picture of framing, made where a recogniser is framed; None: there is none.

    Raises:
        UserError: what would stop the audit itself: settings, files, data or networks that cannot be used.
    """
    config, _ = settled(config, attack=config.attack.resolved)
    data, warnings = audit_data(config)
    models = load_models(config, data)
    return [*_people(config, data, warnings), *_victim(config, data, models.victim), *_attack(config, data, models),
            *sight(config, data, models, None if out is None else out / "framing.png")]


def _people(config: LabelConfig, data: AuditData, warnings: list[str]) -> Iterator[Row]:
    for name, part in (("private", data.private_train), ("held out", data.private_heldout), ("public", data.public),
                       ("evaluation", data.evaluation)):
        if part is not None:
            yield Row("data", name, f"{part.n_classes} people, {len(part)} photos of {part.size} pixels: {part.source}")
    if config.data.rendered_public:
        yield Row("data", "rendered", "data.public holds rendered faces alone: of real people, prior and map learn "
                  "nothing from them", None, "name public photos of the same kind as the private ones")
    people = data.private_train.n_classes
    if (reach := success_rate(0, people).high) >= MOST_HIDDEN:
        yield Row("data", "few people", f"an attack that draws nobody right of {people} people still leaves up to "
                  f"{reach:.0%} possible (95% interval): such an audit is inconclusive", None, "audit more people")
    for warning in warnings:
        yield Row("data", "warning", warning, None)


def _victim(config: LabelConfig, data: AuditData, victim: Victim) -> Iterator[Row]:
    model = config.victim
    yield Row("victim", "model", f"{model.model}, {victim.n_classes} classes, {victim.access.value} access")
    for note in victim.notes:
        yield Row("victim", "read as", note, None)
    if is_trained_here(model):
        yield Row("victim", "accuracy", "it will be trained here on the private people")
        return
    photos = spread(data.private_heldout, SERVICE_PHOTOS if is_service(victim) else COMPARED)
    right = int(hits_of(victim, photos).sum())
    yield _accuracy(right, photos, victim.n_classes)
    for flag in probe(victim, photos):
        yield Row("victim", flag.name, flag.message, False, flag.mend)
    if is_service(victim):
        return  # every further look is a query somebody counts
    if right < len(photos) and (other := best_other(victim, data.private)) is not None:
        said = (f"with {other.words} it names {other.right} of {other.n} right instead of {other.declared} "
                f"(p {other.p:.2g})")
        if wrong := preprocessing_flag(other):
            yield Row("victim", "preprocessing", said, False, wrong.mend)
        elif other.right - other.declared > 1:
            yield Row("victim", "preprocessing", f"{said}: too few photos to tell", None)
    yield from _seen(config, data, victim)


def _accuracy(right: int, photos: ImageSet, n_classes: int) -> Row:
    """By a count: right answers that guessing explains are a fault where there are enough photos to tell."""
    n = len(photos)
    found = f"{right / n:.1%}: {right} of {n} held-out photos right; {n / n_classes:.1f} would be chance"
    if flag := chance_flag(right, n, n_classes):
        grey = "; these photos are grey: was it trained on colour?" if is_grey(photos.images) else ""
        return Row("victim", "accuracy", found, False, flag.mend + grey)
    if better_than_chance(right, n, n_classes):
        return Row("victim", "accuracy", found)
    return Row("victim", "accuracy", f"{found}: too few photos to tell it from chance", None)


def is_grey(images: Tensor) -> bool:
    """Whether every image ``(N, 3, H, W)`` uint8 has three equal channels, to the two levels that JPEG may move."""
    red, green, blue = images.to(torch.int16).unbind(1)
    return int((red - green).abs().max()) <= 2 and int((green - blue).abs().max()) <= 2


def _seen(config: LabelConfig, data: AuditData, victim: Victim) -> Iterator[Row]:
    """Has the victim been trained on photos that the audit holds out?"""
    train, heldout = (spread(part, COMPARED) for part in (data.private_train, data.private_heldout))
    losses = [F.cross_entropy(scores(victim, part.images), part.labels, reduction="none") for part in (train, heldout)]
    right = [float(hits_of(victim, part).float().mean()) for part in (train, heldout)]
    found = f"{right[0]:.1%} of {len(train)} training photos right, {right[1]:.1%} of {len(heldout)} held-out ones"
    larger = float(mannwhitneyu(losses[0].numpy(), losses[1].numpy(), alternative="less").pvalue) <= LEVEL
    if larger or config.data.heldout is not None:
        yield Row("victim", "held out", found)
        return
    yield Row("victim", "held out", f"{found}, and it is no less sure of these", None,
              "if it was trained on them too, ceiling and accuracy flatter: name photos that it never saw with "
              "data.heldout")


def _attack(config: LabelConfig, data: AuditData, models: Models) -> Iterator[Row]:
    arms = "the stages" if config.attack.stages else "the map from scores alone: no gradients are asked"
    yield Row("attack", "attack", arms)
    asked = queries(config, data)
    budget = config.victim.service.budget
    service = config.victim.model.startswith(("http://", "https://"))
    if service and budget is not None and asked > budget:
        yield Row("attack", "queries", f"about {asked:,} images will be asked about, the budget is {budget:,}", False,
                  "raise victim.service.budget, or take fewer public photos")
    else:
        yield Row("attack", "queries", f"about {asked:,} images without gradient")
    yield Row("judges", "recognisers", f"{config.judge} judges, {config.teacher} is the attack's")
    yield Row("judges", "evaluators", ", ".join(model.model for model in config.evaluators))
    assert models.victim.access is Access.WHITE_BOX or not config.attack.stages


def queries(config: LabelConfig, data: AuditData) -> int:
    """Images that an attack without stages asks its victim about, the owner's own look at held-out photos and
    the probes included."""
    classes = data.private_train.n_classes
    pictures = classes * config.attack.images
    arms = 4 if config.attack.initial == "mapped" else 3
    return len(data.public) + len(data.private_heldout) + arms * pictures + SERVICE_PHOTOS
