"""Is this the same person? A recogniser's cosine similarity against thresholds calibrated on real impostors.

Protocol ``template``: each person is enrolled by the renormalised mean of the unit embeddings of their
enrolment photos; a probe scores its cosine to a template. Protocol ``pairs``: image against image.
A threshold belongs to the protocol, the recogniser and the people it was calibrated on. It also belongs to one kind of
template: the mean of many photos draws impostors' similarities closer together or further apart than the mean of few.
So calibration people and private people are enrolled by the same number of photos, and the false match rate that the
threshold really gives is then counted on the private people.

The false match rate (FMR) is the share of impostor comparisons with ``score > threshold``, the true accept
rate (TAR) the share of genuine ones (ISO/IEC 19795-1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from latentprint.data.base import ImageSet, concatenate
from latentprint.data.splits import AuditData
from latentprint.errors import UserError
from latentprint.models.answers import embeddings

STRICT, LOOSE = 1e-3, 1e-2
FMRS = (LOOSE, STRICT)
FEW_FALSE_MATCHES = 10
#: A realised false match rate beyond so many times the stated one is worth a warning.
TOLERANCE = 3
#: True accept rates below which a recogniser hardly tells people apart.
LOW_TAR = 0.5
#: Public people who stand in for evaluation people, at most, where a template is one photo.
STAND_INS = 400


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one recogniser under one protocol.

    Attributes:
        thresholds: cosine in [-1, 1] by FMR; NaN where there are too few impostor comparisons for that FMR.
        tar: true accept rate in [0, 1] by FMR; NaN where the threshold is, or without genuine comparisons.
        n_impostor, n_genuine: how many comparisons stand behind it.
        warnings: sentences for the report.
    """

    thresholds: dict[float, float]
    tar: dict[float, float]
    n_impostor: int
    n_genuine: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Verifier:
    """A recogniser in use: people are enrolled and thresholds calibrated.

    Attributes:
        photos: that each template is made of.
        calibration: thresholds for such templates.
        impostors: ``(I,)`` cosines of photos of enrolled people to the templates of the other enrolled people.
    """

    name: str
    architecture: str
    photos: int
    calibration: Calibration
    impostors: Tensor

    @property
    def realised_fmr(self) -> float | None:
        """Share of ``impostors`` above the strict threshold; None without a threshold or an impostor."""
        threshold = self.calibration.thresholds[STRICT]
        if math.isnan(threshold) or not len(self.impostors):
            return None
        return float((self.impostors > threshold).double().mean())

    @property
    def tar(self) -> tuple[float, float]:
        """The strictest false match rate that has a threshold, and the true accept rate there."""
        fmr = LOOSE if math.isnan(self.calibration.tar[STRICT]) else STRICT
        return fmr, self.calibration.tar[fmr]

    def accepts(self, similarity: Tensor, fmr: float = STRICT) -> Tensor:
        """1 where a similarity passes the threshold, else 0, float64; NaN throughout without a threshold."""
        return above(similarity, self.calibration.thresholds[fmr])

    def section(self) -> dict[str, Any]:
        """Thresholds and recognition, for report.json."""
        c = self.calibration
        return {"name": self.name, "architecture": self.architecture,
                "thresholds": {f"{fmr:g}": value for fmr, value in c.thresholds.items()},
                "tar": {f"{fmr:g}": value for fmr, value in c.tar.items()},
                "n_impostor": c.n_impostor, "n_genuine": c.n_genuine, "photos": self.photos,
                "realised_fmr": {"value": self.realised_fmr, "n": len(self.impostors)}}

    def warnings(self) -> list[str]:
        """What the report should say about its thresholds."""
        name, realised, tar = self.name or "a recogniser", self.realised_fmr, self.tar[1]
        found = [f"{self.name}: {warning}" if self.name else warning for warning in self.calibration.warnings]
        if tar < LOW_TAR:
            found.append(f"{name} accepts only {tar:.0%} of real photos of the right person: it hardly tells people "
                         "apart, or its preprocessing is not the one it was trained with")
        if realised is not None and realised > TOLERANCE * STRICT:
            found.append(f"{name} takes private people for each other in {realised:.2%} of {len(self.impostors):,} "
                         f"comparisons, at a threshold that should let through {STRICT:.1%}: its match rates are "
                         "flattered, those of floor and ceiling too")
        return found


@dataclass(frozen=True)
class Recogniser(Verifier):
    """A recogniser with the private people enrolled by several photos each.

    Attributes:
        templates: ``(P, D)`` unit, of each private person's first ``photos`` training photos: for verification.
        people: who calibrated, in words.
        truth: ``(P, D)`` unit, of all training photos: the best estimate of a person's true embedding.
    """

    network: nn.Module
    templates: Tensor
    people: str
    truth: Tensor


@dataclass(frozen=True)
class CalibrationSets:
    """Whom to calibrate on.

    Attributes:
        photos: that each template is made of.
        enrolment: so many photos of each person. probes: others; ``labels`` are people of ``enrolment``.
        people: who they are, in words.
    """

    photos: int
    enrolment: ImageSet
    probes: ImageSet
    people: str


def enrolled(network: nn.Module, data: AuditData, name: str = "", architecture: str = "") -> Recogniser:
    """Calibrate the thresholds, and enrol the private people by as many photos (or all, who have fewer)."""
    sets, train, heldout = calibration_sets(data), data.private_train, data.private_heldout
    who = name or "recogniser"
    calibration = calibrate(embeddings(network, sets.probes.images, who), sets.probes.labels,
                            _templates(network, sets.enrolment, who))
    templates = _templates(network, train.first_photos(sets.photos)[0], who)
    similarity = embeddings(network, heldout.images, who) @ templates.T
    impostors = similarity[heldout.labels[:, None] != torch.arange(train.n_classes)]
    return Recogniser(name, architecture, sets.photos, calibration, impostors, network, templates, sets.people,
                      _templates(network, train, who))


def calibration_sets(data: AuditData) -> CalibrationSets:
    """Whom to calibrate on.

    The evaluation people, each by half of a typical one's photos (at most a typical private person's). Without them,
    the private people, all by a typical one's training photos, probed by those held out. Where these give too few
    comparisons for the strict rate, the public people who have more photos than a template takes join them. Public
    people may come from several sources, and pairs across sources (grey against colour) are too easy: hence never
    more people than needed, and ``Verifier.realised_fmr`` to tell whether it went wrong.
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


def single_photo_sets(data: AuditData) -> CalibrationSets:
    """Whom to calibrate on where a template is one photo: the evaluation people, or public people with two photos or
    more where there are none."""
    if data.evaluation is not None:
        return CalibrationSets(1, *_with_more(data.evaluation, 1).first_photos(1), "evaluation people")
    several = (data.public.counts() > 1).nonzero().flatten()
    chosen = several[torch.linspace(0, len(several) - 1, min(STAND_INS, len(several))).long()]  # of all sources
    return CalibrationSets(1, *data.public.of_classes(chosen.tolist()).first_photos(1), "public people")


def enrol(embeddings: Tensor, labels: Tensor, n_people: int) -> Tensor:
    """``(P, D)`` unit templates from ``(N, D)`` embeddings of photos and ``(N,)`` int64 labels in 0..P-1.

    Raises:
        UserError: a person has no photo.
    """
    empty = (torch.bincount(labels, minlength=n_people) == 0).nonzero().flatten().tolist()
    if empty:
        raise UserError(f"person {empty[0]} has no photo to enrol: each of the {n_people} people needs one")
    sums = embeddings.new_zeros(n_people, embeddings.shape[1])
    return normalize(sums.index_add_(0, labels, normalize(embeddings, dim=1)), dim=1)


def calibrate(
    probe_emb: Tensor, probe_labels: Tensor, templates: Tensor, fmrs: Sequence[float] = FMRS
) -> Calibration:
    """Thresholds for protocol ``template``.

    Args:
        probe_emb: ``(N, D)`` embeddings of real photos, none of them used to enrol.
        probe_labels: ``(N,)`` int64, rows of ``templates``; -1 for people not enrolled (impostors to all).
        templates: ``(P, D)`` from ``enrol``.
        fmrs: false match rates asked for, each in (0, 1).
    """
    return calibrate_scores(normalize(probe_emb, dim=1) @ normalize(templates, dim=1).T, probe_labels, fmrs)


def calibrate_scores(scores: Tensor, probe_labels: Tensor, fmrs: Sequence[float] = FMRS) -> Calibration:
    """The same from the scores ``(N, P)`` of all probes against all people, however they were made."""
    genuine = probe_labels[:, None] == torch.arange(scores.shape[1], device=probe_labels.device)
    return _calibration(scores[genuine], scores[~genuine], fmrs)


def calibrate_pairs(emb: Tensor, labels: Tensor, fmrs: Sequence[float] = FMRS) -> Calibration:
    """Thresholds for protocol ``pairs``: all pairs of embeddings ``(N, D)`` with labels ``(N,)``."""
    unit = normalize(emb, dim=1)
    first, second = torch.triu_indices(len(emb), len(emb), offset=1, device=emb.device)
    scores, genuine = (unit @ unit.T)[first, second], labels[first] == labels[second]
    return _calibration(scores[genuine], scores[~genuine], fmrs)


def pair_accuracy(similarity: Tensor, same: Tensor, fold: Tensor) -> list[float]:
    """Share of pairs that are judged right in each fold, by the threshold that is best on all the others.

    Source: the image-restricted protocol of LFW (Huang et al. 2007, section 3).

    Args:
        similarity: ``(P,)``. same: ``(P,)`` bool. fold: ``(P,)`` int64; at least two.
    """
    found = []
    for number in fold.unique():
        held = fold == number
        others, truth = similarity[~held], same[~held]
        order = others.argsort(descending=True)
        # Accepting the first k: right are the same pairs among them and the different ones behind.
        accepted = torch.cat([torch.zeros(1), truth[order].float().cumsum(0)])
        wrong = torch.cat([torch.zeros(1), (~truth[order]).float().cumsum(0)])
        k = int((accepted - wrong).argmax())
        ranked = torch.cat([others[order][:1] + 1, others[order], others[order][-1:] - 1])
        threshold = (ranked[k] + ranked[k + 1]) / 2
        found.append(float(((similarity[held] >= threshold) == same[held]).float().mean()))
    return found


def above(similarity: Tensor, threshold: float) -> Tensor:
    """1 where the threshold is passed, else 0, float64; NaN throughout where it is NaN."""
    if math.isnan(threshold):
        return torch.full_like(similarity, torch.nan, dtype=torch.float64)
    return (similarity > threshold).double()


def _templates(network: nn.Module, photos: ImageSet, name: str) -> Tensor:
    return enrol(embeddings(network, photos.images, name), photos.labels, photos.n_classes)


def _with_more(data: ImageSet, count: int) -> ImageSet:
    """The people with more than ``count`` photos."""
    return data.of_classes((data.counts() > count).nonzero().flatten().tolist())


def _calibration(genuine: Tensor, impostor: Tensor, fmrs: Sequence[float]) -> Calibration:
    descending = impostor.sort(descending=True).values
    thresholds = {fmr: _threshold(descending, fmr) for fmr in fmrs}
    tar = {fmr: _share_above(genuine, bound) for fmr, bound in thresholds.items()}
    warnings = [_shortage(len(impostor), fmr) for fmr in fmrs]
    if not len(genuine):
        warnings.append("no genuine comparison: the true accept rate is unknown")
    return Calibration(thresholds, tar, len(impostor), len(genuine), tuple(w for w in warnings if w))


def _allowed(n_impostor: int, fmr: float) -> int:
    """How many false matches the rate allows; the small term undoes 0.29 * 100 = 28.999999999999996."""
    return math.floor(n_impostor * fmr + 1e-9)


def _threshold(descending: Tensor, fmr: float) -> float:
    """With k false matches allowed, the (k+1)-th highest impostor score: at most k lie strictly above it."""
    allowed = _allowed(len(descending), fmr)
    return float(descending[allowed]) if allowed >= 1 else math.nan


def _share_above(scores: Tensor, bound: float) -> float:
    return math.nan if math.isnan(bound) or not len(scores) else float((scores > bound).double().mean())


def _shortage(n_impostor: int, fmr: float) -> str | None:
    allowed = _allowed(n_impostor, fmr)
    if allowed < 1:
        needed = math.ceil(1 / fmr - 1e-9)
        return f"no threshold at FMR {fmr:g}: it needs {needed} impostor comparisons, there are {n_impostor}"
    if allowed < FEW_FALSE_MATCHES:
        return (f"the threshold at FMR {fmr:g} is uncertain: it rests on the highest {allowed + 1} "
                f"of {n_impostor} impostor comparisons")
    return None
