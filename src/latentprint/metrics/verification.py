"""Is this the same person? A recogniser's cosine similarity against thresholds calibrated on real impostors.

Protocol ``template``: each person is enrolled by the renormalised mean of the unit embeddings of their
enrolment photos; a probe scores its cosine to a template. Protocol ``pairs``: image against image.
A threshold belongs to the protocol, the recogniser and the people it was calibrated on.

The false match rate (FMR) is the share of impostor comparisons with ``score > threshold``, the true accept
rate (TAR) the share of genuine ones (ISO/IEC 19795-1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.errors import UserError

FMRS = (1e-2, 1e-3)
FEW_FALSE_MATCHES = 10


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


def match(recon_emb: Tensor, classes: Tensor, templates: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Cosine ``(B,)`` of each reconstruction to its person's template, and bool ``(B,)``: is it a match?

    Args:
        recon_emb: ``(B, D)`` embeddings of reconstructions.
        classes: ``(B,)`` int64, the person each is meant to show: a row of ``templates``.
        templates: ``(P, D)`` from ``enrol``.
        threshold: cosine, from a calibration with the same templates.

    Raises:
        ValueError: the threshold is NaN. A match rate of 0 would look like safety.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is NaN: there were too few impostor comparisons to calibrate it")
    similarity = (normalize(recon_emb, dim=1) * normalize(templates, dim=1)[classes]).sum(1)
    return similarity, similarity > threshold


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
