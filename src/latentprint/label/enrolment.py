"""The private people enrolled in a recogniser, with thresholds that hold for exactly such templates.

A false match rate belongs to one kind of template: the mean of many photos draws strangers' similarities closer
together or further apart than the mean of few. So everybody, calibration people and private people alike, is enrolled
by the same number of photos, and what the threshold really lets through is then counted on the private people.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet, concatenate
from latentprint.data.splits import AuditData
from latentprint.metrics.verification import FEW_FALSE_MATCHES, Calibration, calibrate, enrol
from latentprint.models.answers import embeddings

STRICT, LOOSE = 1e-3, 1e-2
#: A realised false match rate beyond so many times the stated one is worth a warning.
TOLERANCE = 3


@dataclass(frozen=True)
class Recogniser:
    """A recogniser with the private people enrolled and thresholds calibrated.

    Attributes:
        templates: ``(P, D)`` unit, of each private person's first ``photos`` training photos: for verification.
        calibration: thresholds for templates of ``photos`` photos, from ``people``.
        truth: ``(P, D)`` unit, of all training photos: the best estimate of a person's true embedding.
        strangers: ``(S,)`` cosines of private held-out photos to the templates of the other private people.
    """

    network: nn.Module
    templates: Tensor
    calibration: Calibration
    name: str
    architecture: str
    photos: int
    people: str
    truth: Tensor
    strangers: Tensor

    @property
    def realised_fmr(self) -> float | None:
        """Share of ``strangers`` above the strict threshold; None without a threshold or a stranger."""
        threshold = self.calibration.thresholds[STRICT]
        if threshold != threshold or not len(self.strangers):
            return None
        return float((self.strangers > threshold).double().mean())


@dataclass(frozen=True)
class CalibrationSets:
    """Whom to calibrate on: templates of ``photos`` photos each, probes, and who they are in words."""

    photos: int
    enrolment: ImageSet
    probes: ImageSet
    people: str


def enrolled(network: nn.Module, data: AuditData, name: str = "", architecture: str = "") -> Recogniser:
    """Calibrate the thresholds, and enrol the private people by as many photos (or all, who have fewer)."""
    sets, train, heldout = calibration_sets(data), data.private_train, data.private_heldout
    who = name or "recogniser"
    calibration = calibrate(embeddings(network, sets.probes.images, who), sets.probes.labels,
                            _templates(network, sets.enrolment, who), (LOOSE, STRICT))
    templates = _templates(network, train.first_photos(sets.photos)[0], who)
    similarity = embeddings(network, heldout.images, who) @ templates.T
    strangers = similarity[heldout.labels[:, None] != torch.arange(train.n_classes)]
    return Recogniser(network, templates, calibration, name, architecture, sets.photos, sets.people,
                      _templates(network, train, who), strangers)


def calibration_sets(data: AuditData) -> CalibrationSets:
    """Whom to calibrate on.

    The evaluation people, each by half of a typical one's photos (at most a typical private person's). Without them,
    the private people, all by a typical one's training photos, probed by those held out. Where these give too few
    comparisons for the strict rate, the public people who have more photos than a template takes join them. Public
    people may come from several sources, and pairs across sources (grey against colour) are too easy: hence never
    more people than needed, and ``Recogniser.realised_fmr`` to tell whether it went wrong.
    """
    typical = int(data.private_train.counts().median())
    if data.evaluation is not None:
        photos = min(typical, (int(data.evaluation.counts().median()) + 1) // 2)
        return CalibrationSets(photos, *_with_more(data.evaluation, photos).first_photos(photos), "evaluation people")
    private, heldout = data.private_train.first_photos(typical)[0], data.private_heldout
    if len(heldout) * (private.n_classes - 1) * STRICT >= FEW_FALSE_MATCHES:
        return CalibrationSets(typical, private, heldout, "private people")
    first, rest = _with_more(data.public, typical).first_photos(typical)
    return CalibrationSets(typical, concatenate(private, first), concatenate(heldout, rest),
                           "private and public people")


def warnings_of(recogniser: Recogniser) -> list[str]:
    """What the report should say about a recogniser's thresholds."""
    realised = recogniser.realised_fmr
    found = list(recogniser.calibration.warnings)
    if realised is not None and realised > TOLERANCE * STRICT:
        found.append(f"{recogniser.name or 'a recogniser'} takes private people for each other in {realised:.2%} of "
                     f"{len(recogniser.strangers):,} comparisons, at a threshold that should let through {STRICT:.1%}: "
                     "its match rates are flattered, those of floor and ceiling too")
    return found


def _templates(network: nn.Module, photos: ImageSet, name: str) -> Tensor:
    return enrol(embeddings(network, photos.images, name), photos.labels, photos.n_classes)


def _with_more(data: ImageSet, count: int) -> ImageSet:
    """The people with more than ``count`` photos."""
    return data.of_classes((data.counts() > count).nonzero().flatten().tolist())
