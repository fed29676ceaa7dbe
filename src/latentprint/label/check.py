"""``latentprint audit label --check``: everything that an audit rests on, looked at before anything long starts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.engine.settings import settled
from latentprint.errors import UserError
from latentprint.findings import Row
from latentprint.label.audit import Models, audit_data, load_models
from latentprint.label.classifiers import is_trained_here, scores
from latentprint.label.presets import LabelConfig, ModelConfig
from latentprint.models.outside import OutsideNetwork
from latentprint.models.preprocess import Colours, Preprocess
from latentprint.types import Access
from latentprint.victim import Victim

#: Held-out photos at which a victim is tried.
TRIED = 200
#: An accuracy lower by more than this than under another preprocessing: the one that was declared looks wrong.
SUSPICIOUS = 0.05
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_audit(config: LabelConfig) -> list[Row]:
    """What is there and how it does. All is well when no row has ``ok`` False.

    Raises:
        UserError: what would stop the audit itself: settings, files, data or networks that cannot be used.
    """
    config, _ = settled(config, attack=config.attack.resolved)
    data, warnings = audit_data(config)
    models = load_models(config, data)
    return [*_people(data, warnings), *_victim(config, data, models.victim), *_attack(config, data, models)]


def _people(data: AuditData, warnings: list[str]) -> Iterator[Row]:
    for name, part in (("private", data.private_train), ("held out", data.private_heldout), ("public", data.public),
                       ("evaluation", data.evaluation)):
        if part is not None:
            yield Row("data", name, f"{part.n_classes} people, {len(part)} photos of {part.size} pixels: {part.source}")
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
    photos = data.private_heldout.take(torch.linspace(0, len(data.private_heldout) - 1,
                                                      min(TRIED, len(data.private_heldout))).long().unique())
    own = accuracy(victim, photos)
    chance = 1 / victim.n_classes
    good = own > 3 * chance
    yield Row("victim", "accuracy", f"{own:.1%} of {len(photos)} held-out photos, chance is {chance:.1%}", good,
              "" if good else "are its classes, weights and preprocessing those it was trained with?")
    if isinstance(victim.network, OutsideNetwork):
        return  # every further look is a query somebody counts
    found, said = max((tried(victim, look, photos), said) for said, look in others(model))
    if found > own + SUSPICIOUS:
        yield Row("victim", "preprocessing", f"with {said} it names {found:.1%} of them right", False,
                  "declare it so, unless you know better")


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
    """Images that an attack without stages asks its victim about, the owner's own look at held-out photos included."""
    classes = data.private_train.n_classes
    pictures = classes * config.attack.images
    arms = 4 if config.attack.initial == "mapped" else 3
    return len(data.public) + len(data.private_heldout) + arms * pictures


def accuracy(victim: Victim, photos: ImageSet) -> float:
    """Share of photos that the victim names right."""
    return float((scores(victim, photos.images).argmax(1) == photos.labels).float().mean())


def others(model: ModelConfig) -> Iterator[tuple[str, Preprocess]]:
    """Other preprocessings that are common, in words and ready."""
    top, left, bottom, right = model.crop
    crop, size = (top, left, bottom, right), model.input_size
    flipped: Colours = "rgb" if model.colours == "bgr" else "bgr"
    if model.colours != "grey":
        yield f"colours: {flipped}", Preprocess(crop, size, model.mean, model.std, flipped, model.scale)
    yield "ImageNet's mean and std", Preprocess(crop, size, *IMAGENET)
    yield "values in [0, 1] (mean 0, std 1)", Preprocess(crop, size, (0.0,) * 3, (1.0,) * 3)
    yield "bytes (scale 255, mean 0, std 1)", Preprocess(crop, size, (0.0,) * 3, (1.0,) * 3, "rgb", 255.0)
    yield "the whole picture (crop 0, 0, 1, 1)", Preprocess((0.0, 0.0, 1.0, 1.0), size, model.mean, model.std,
                                                            model.colours, model.scale)


def tried(victim: Victim, look: Preprocess, photos: ImageSet) -> float:
    """The victim's accuracy under another preprocessing; 0 where it cannot take what comes out."""
    own = victim.preprocess
    victim.preprocess = look.to(victim.device)
    try:
        return accuracy(victim, photos)
    except (RuntimeError, UserError):  # shapes
        return 0.0
    finally:
        victim.preprocess = own
