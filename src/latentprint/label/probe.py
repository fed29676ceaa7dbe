"""What a classifier's answers tell of the audit to come: `latentprint.probes`, their kind, and whom it knows."""

from __future__ import annotations

from functools import partial

import torch
from scipy.stats import binom
from torch import Tensor

from latentprint.checks import Flag
from latentprint.data.base import ImageSet
from latentprint.defense import Defense
from latentprint.errors import UserError
from latentprint.label.classifiers import scores
from latentprint.models.outside import HttpNetwork
from latentprint.probes import constant_flag, function_flags, spread
from latentprint.types import Access
from latentprint.victim import Answers, Victim

#: Photos that each probe asks about, and those of a service, where every photo is a query that somebody counts.
PHOTOS, SERVICE_PHOTOS = 32, 8
#: How far probabilities may be from summing to 1: half precision rounds so much.
SUM_TOLERANCE = 5e-3
#: P value below which a count of right answers is better than chance.
LEVEL = 0.05


def probe(victim: Victim, heldout: ImageSet) -> list[Flag]:
    """Every probe of a victim that is ready for use, at a few photos of its own people.

    Args:
        heldout: photos of the private people, evenly spread over them.
    """
    photos = spread(heldout, SERVICE_PHOTOS if is_service(victim) else PHOTOS)
    images = photos.floats().to(victim.device)
    own = victim
    while isinstance(own, Defense):
        own = own.victim
    raw = raw_answers(own, images)
    found = [kind_flag(raw, own.answers), one_hot_flag(raw), constant_flag(raw)]
    if not is_service(victim):
        found += function_flags(victim.logits, images, partial(margin, victim) if victim.access is Access.WHITE_BOX
                                else None)
    return [flag for flag in found if flag]


def is_service(victim: Victim) -> bool:
    """Whether the victim is asked over a network, so that every photo is a query that somebody counts."""
    return isinstance(victim.network, HttpNetwork)


def margin(victim: Victim, images: Tensor) -> Tensor:
    """The highest logit less the second, ``(B,)``.

    Unlike the cross-entropy's, its gradient does not vanish merely because the victim is sure.
    """
    highest = victim.logits(images).topk(min(2, victim.n_classes), 1).values
    return highest[:, 0] - highest[:, 1:].sum(1)


@torch.no_grad()
def raw_answers(victim: Victim, images: Tensor) -> Tensor:
    """What an undefended victim's network answers, ``(N, C)`` on the CPU, before it is read as logits.

    Raises:
        UserError: answers that are not finite.
    """
    answer = victim.module(victim.preprocess(images)).detach().float().cpu()
    if not answer.isfinite().all():
        bad = int((~answer.isfinite()).any(1).sum())
        raise UserError(f"{victim.name} answers {bad} of {len(answer)} photos with NaN or infinite numbers: check its "
                        "weights and preprocessing")
    return answer


# ---- what kind of answers ----


def kind_flag(raw: Tensor, declared: Answers) -> Flag | None:
    """Blind where answers ``(N, C)`` are certainly of another kind than declared."""
    inside = bool(((raw >= 0) & (raw <= 1 + SUM_TOLERANCE)).all())
    normalised = inside and bool(((raw.sum(1) - 1).abs() <= SUM_TOLERANCE).all())
    percent = bool((raw >= 0).all() and ((raw.sum(1) / 100 - 1).abs() <= SUM_TOLERANCE).all())
    log_normalised = bool((raw <= SUM_TOLERANCE).all() and (raw.logsumexp(1).abs() <= SUM_TOLERANCE).all())
    match declared:
        case "probabilities" | "logits" if percent and raw.shape[1] > 1:
            return Flag("answer-kind", "blind", f"the model's answers are declared as {declared} and look like "
                        "percentages, which sum to 100", "divide them by 100 inside the model and set victim.answers "
                        "to probabilities")
        case "probabilities" if not normalised:
            mend = "log-probabilities" if log_normalised else "sigmoid" if inside else "logits"
            kind = "numbers between 0 and 1 that do not sum to 1" if inside else mend
        case "log-probabilities" if not log_normalised:
            kind, mend = ("probabilities",) * 2 if normalised else ("logits",) * 2
        case "logits" if normalised and raw.shape[1] > 1:
            kind = mend = "probabilities"
        case "logits" if inside and raw.shape[1] > 1:
            kind, mend = "numbers between 0 and 1 that do not sum to 1", "sigmoid"
        case "sigmoid" if not inside:
            kind = mend = "logits"
        case _:
            return None
    return Flag("answer-kind", "blind", f"the model's answers are declared as {declared} and look like {kind}, so its "
                "loss and its gradients are not those that the attack counts on", f"set victim.answers to {mend}")


def one_hot_flag(raw: Tensor) -> Flag | None:
    """Blind where every answer ``(N, C)`` names a class, perhaps with its score, and gives all others one number."""
    others = raw.scatter(1, raw.argmax(1, keepdim=True), torch.nan)
    others = others[~others.isnan()]
    if len(raw) < 2 or not len(others) or raw.amax(1).min() <= others.max() or (
            others.max() - others.min() > 1e-6 * others.abs().max()):
        return None
    return Flag("one-hot", "blind", f"the model answers with one class alone (one-hot): all others get "
                f"{float(others[0]):g} for every photo, so there are no scores and no gradients to attack",
                "let it answer with all its scores, before any argmax or mask")


# ---- whether it knows these people ----


def chance_flag(right: int, n: int, n_classes: int) -> Flag | None:
    """Blind where a victim names held-out photos no better than chance, and there were enough of them to tell.

    Args:
        right: photos named right, of ``n``.
    """
    if better_than_chance(right, n, n_classes) or not tellable(n, n_classes) or right / n > (1 + 1 / n_classes) / 2:
        return None
    return Flag("victim-weak", "blind", f"the model names {right} of {n} held-out photos right, and "
                f"{n / n_classes:.1f} would be chance", "are its classes, weights and preprocessing those that it was "
                "trained with?")


def better_than_chance(right: int, n: int, n_classes: int) -> bool:
    """Whether so many right answers are unlikely (below ``LEVEL``) for one that guesses: the exact binomial test."""
    return float(binom.sf(right - 1, n, 1 / n_classes)) <= LEVEL


def tellable(n: int, n_classes: int) -> bool:
    """Whether ``n`` photos, all named right, would be unlikely for one that guesses."""
    return better_than_chance(n, n, n_classes)


def hits_of(victim: Victim, photos: ImageSet) -> Tensor:
    """Whether each photo is named right, ``(N,)`` bool, uncounted."""
    return scores(victim, photos.images).argmax(1) == photos.labels
