"""What a victim's answers tell of the audit to come, before anything is spent on it.

Each probe asks a few photos and looks for one thing that would hide a leak from the attack: answers that carry no
gradient, that do not depend on the photo, that depend on chance or on the other photos of the batch, or that are not of
the kind that was declared. A probe that finds it gives a blind `checks.Flag`.
"""

from __future__ import annotations

import torch
from scipy.stats import binom
from torch import Tensor

from latentprint.checks import Flag, zero_gradient
from latentprint.data.base import ImageSet
from latentprint.errors import UserError
from latentprint.label.classifiers import scores
from latentprint.models.outside import HttpNetwork
from latentprint.types import Access
from latentprint.victim import Answers, Victim

#: Photos that each probe asks about, and those of a service, where every photo is a query that somebody counts.
PHOTOS, SERVICE_PHOTOS = 32, 8
#: Root mean square difference of two answers to one photo, over that between photos, from which they differ.
DIFFERENT = 0.01
#: How far probabilities may be from summing to 1: half precision rounds so much.
SUM_TOLERANCE = 5e-3
#: P value below which a count of right answers is better than chance.
LEVEL = 0.05
REPEATED = "put the model in eval mode (dropout off), or average its answers inside it"


def probe(victim: Victim, heldout: ImageSet) -> list[Flag]:
    """Every probe of a victim that is ready for use, at a few photos of its own people.

    Args:
        heldout: photos of the private people, evenly spread over them.
    """
    service = isinstance(victim.network, HttpNetwork)
    photos = spread(heldout, SERVICE_PHOTOS if service else PHOTOS)
    images = photos.floats().to(victim.device)
    raw = raw_answers(victim, images)
    found = [kind_flag(raw, victim.answers), one_hot_flag(raw), constant_flag(raw)]
    if not service:
        chance = repeated_flag(victim, images)  # what differs by chance differs alone and with a gradient too
        found += [chance] if chance else [gradient_flag(victim, images), alone_flag(victim, images),
                                          asked_for_gradient_flag(victim, images)]
    return [flag for flag in found if flag]


def spread(photos: ImageSet, n: int) -> ImageSet:
    """At most ``n`` photos, evenly spaced, so that every person is among them where there are few."""
    return photos.take(torch.linspace(0, len(photos) - 1, min(n, len(photos))).long().unique())


@torch.no_grad()
def raw_answers(victim: Victim, images: Tensor) -> Tensor:
    """What the network itself answers, ``(N, C)`` on the CPU, before it is read as logits.

    Raises:
        UserError: answers that are not finite.
    """
    answer = victim.network(victim.preprocess(images)).detach().float().cpu()
    if not answer.isfinite().all():
        bad = int((~answer.isfinite()).any(1).sum())
        raise UserError(f"{victim.name} answers {bad} of {len(answer)} photos with NaN or infinite numbers: check its "
                        "weights and preprocessing")
    return answer


# ---- what kind of answers ----


def kind_flag(raw: Tensor, declared: Answers) -> Flag | None:
    """Blind where answers ``(N, C)`` are certainly of another kind than declared."""
    inside = bool(((raw >= -SUM_TOLERANCE) & (raw <= 1 + SUM_TOLERANCE)).all())
    normalised = inside and bool(((raw.sum(1) - 1).abs() <= SUM_TOLERANCE).all())
    log_normalised = bool((raw <= SUM_TOLERANCE).all() and (raw.logsumexp(1).abs() <= SUM_TOLERANCE).all())
    match declared:
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
    """Blind where every answer ``(N, C)`` names a class and says nothing else."""
    if not bool(((raw == 0) | (raw == 1)).all() and (raw.sum(1) == 1).all()):
        return None
    return Flag("one-hot", "blind", "the model answers with the name of a class alone (one-hot): there are no scores "
                "and no gradients to attack", "let it answer with its scores before the argmax")


def constant_flag(raw: Tensor, least: float = 1e-5) -> Flag | None:
    """Blind where answers ``(N, C)`` are the same for every photo, to a fraction ``least`` of their size."""
    if len(raw) < 2 or float(raw.std(0, correction=0).max()) > least * float(raw.abs().max()):
        return None
    return Flag("constant-answers", "blind", f"the model gives the same answer to {len(raw)} different photos",
                "check its weights and preprocessing: does it see the photos?")


# ---- whether an answer is a function of the photo ----


@torch.no_grad()
def repeated_flag(victim: Victim, images: Tensor) -> Flag | None:
    """Blind where the same photos, asked twice, get different answers."""
    first, second = (victim.logits(images) for _ in range(2))
    if (apart := difference(first, second)) < DIFFERENT:
        return None
    return Flag("stochastic", "blind", f"the model answers the same photo differently each time (by {apart:.0%} of the "
                "difference between photos)", REPEATED)


@torch.no_grad()
def alone_flag(victim: Victim, images: Tensor) -> Flag | None:
    """Blind where a photo gets another answer alone than among others."""
    few = images[:8]
    together = victim.logits(few)
    try:
        alone = torch.cat([victim.logits(image[None]) for image in few])
    except Exception as error:  # whatever the user's own code raises
        said = f"the model cannot take a single photo ({type(error).__name__})"
    else:
        if (apart := difference(together, alone)) < DIFFERENT:
            return None
        said = (f"the model answers a photo differently alone and in a batch (by {apart:.0%} of the difference between "
                "photos)")
    return Flag("batch-dependent", "blind", said, "export it in eval mode: batch normalisation with its running "
                "statistics")


def asked_for_gradient_flag(victim: Victim, images: Tensor) -> Flag | None:
    """Blind where a photo gets another answer when its gradient is asked for."""
    if victim.access is not Access.WHITE_BOX:
        return None
    with torch.no_grad():
        without = victim.logits(images)
    if (apart := difference(without, victim.logits(images.clone().requires_grad_()).detach())) < DIFFERENT:
        return None
    return Flag("gradient-mode", "blind", f"the model answers differently when a gradient is asked for (by {apart:.0%} "
                "of the difference between photos)", "remove what depends on requires_grad or grad mode inside it")


def gradient_flag(victim: Victim, images: Tensor) -> Flag | None:
    """Blind where the victim does not give the gradient that the attack lives on.

    The gradient is that of the margin between the two highest logits: unlike the cross-entropy's, it does not vanish
    merely because the victim is sure.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
    """
    if victim.access is not Access.WHITE_BOX:
        return None  # nothing rests on gradients
    x = images.to(victim.device).clone().requires_grad_()
    highest = victim.logits(x).topk(min(2, victim.n_classes), 1).values
    margin = highest[:, 0].sum() - highest[:, 1:].sum()
    if not margin.requires_grad:  # the victim cuts the graph
        return zero_gradient(torch.zeros_like(x))
    (gradient,) = torch.autograd.grad(margin, x, materialize_grads=True)
    return zero_gradient(gradient)


def difference(first: Tensor, second: Tensor) -> float:
    """Root mean square difference of two answers ``(N, C)``, over the spread of the first between photos."""
    spread_ = first.float().std(0, correction=0).square().mean().sqrt()
    apart = (first.float() - second.float()).square().mean().sqrt()
    return float(apart / spread_) if spread_ > 0 else 0.0


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
