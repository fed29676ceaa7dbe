"""What a model's answers tell of the audit to come, before anything is spent on it.

Each probe asks a few photos and looks for one thing that would hide a leak from an attack: answers that do not depend
on the photo, that depend on chance or on the other photos of the batch, or that carry no gradient. A probe that finds
it gives a blind `checks.Flag`. What an answer is (logits, an embedding, features) does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentprint.checks import Flag, zero_gradient
from latentprint.data.base import ImageSet
from latentprint.engine.loop import say
from latentprint.errors import useful_line

#: Images ``(B, 3, H, W)`` in [0, 1] to answers ``(B, ...)``.
Answer = Callable[[Tensor], Tensor]

#: Root mean square difference of two answers to one photo, over that between photos, from which they differ.
DIFFERENT = 0.01
#: Photos that are asked alone.
ALONE = 8
#: Root mean square changes of a pixel along the gradient, and the share of the foretold rise that the best must reach.
STEPS, LEAST_RISE = (1e-4, 1e-3, 1e-2), 0.05
SCORES_ALONE = "audit its scores: attack.access=scores, attack.stages=[]"


def announce(flags: Sequence[Flag | None]) -> list[Flag]:
    """The flags that are there, each said on stderr at once: before the attack is paid for."""
    found = [flag for flag in flags if flag]
    for flag in found:
        say(f"warning: this audit will be inconclusive unless it shows a leak: {flag.message}; {flag.mend}")
    return found


def spread(photos: ImageSet, n: int) -> ImageSet:
    """At most ``n`` photos, evenly spaced, so that every person is among them where there are few."""
    return photos.take(torch.linspace(0, len(photos) - 1, min(n, len(photos))).long().unique())


def function_flags(answer: Answer, images: Tensor, gradient: Answer | None) -> list[Flag | None]:
    """Is the answer a function of the photo alone, and can it be followed back to it?

    Args:
        gradient: what an attack follows the gradient of, ``(B, 3, H, W)`` to ``(B, ...)``; None: no attack does.
    """
    if chance := repeated_flag(answer, images):
        return [chance]  # what differs by chance differs alone and with a gradient too
    found = [alone_flag(answer, images)]
    if gradient is not None:
        found += [gradient_flag(gradient, images), asked_for_gradient_flag(answer, images)]
        if not any(found):
            found.append(ascent_flag(gradient, images))
    return found


def constant_flag(raw: Tensor, least: float = 1e-5) -> Flag | None:
    """Blind where answers ``(N, ...)`` are the same for every photo, to a fraction ``least`` of their size."""
    if len(raw) < 2 or float(raw.std(0, correction=0).max()) > least * float(raw.abs().max()):
        return None
    return Flag("constant-answers", "blind", f"the model gives the same answer to {len(raw)} different photos",
                "check its weights and preprocessing: does it see the photos?")


@torch.no_grad()
def repeated_flag(answer: Answer, images: Tensor) -> Flag | None:
    """Blind where the same photos, asked twice, get different answers."""
    first, second = (answer(images) for _ in range(2))
    if (apart := difference(first, second)) < DIFFERENT:
        return None
    return Flag("stochastic", "blind", f"the model answers the same photo differently each time (by {apart:.0%} of the "
                "difference between photos)", "put the model in eval mode (dropout off), or average its answers inside "
                "it")


@torch.no_grad()
def alone_flag(answer: Answer, images: Tensor) -> Flag | None:
    """Blind where a photo gets another answer alone than among others."""
    few = images[:ALONE]
    together = answer(few)
    try:
        alone = torch.cat([answer(image[None]) for image in few])
    except Exception as error:  # whatever the user's own code raises
        said = f"the model cannot take a single photo ({type(error).__name__})"
    else:
        if (apart := difference(together, alone)) < DIFFERENT:
            return None
        said = (f"the model answers a photo differently alone and in a batch (by {apart:.0%} of the difference between "
                "photos)")
    return Flag("batch-dependent", "blind", said, "export it in eval mode: batch normalisation with its running "
                "statistics")


def asked_for_gradient_flag(answer: Answer, images: Tensor) -> Flag | None:
    """Blind where a photo gets another answer when its gradient is asked for."""
    with torch.no_grad():
        without = answer(images)
    with torch.enable_grad():
        asked = answer(images.clone().requires_grad_()).detach()
    if (apart := difference(without, asked)) < DIFFERENT:
        return None
    return Flag("gradient-mode", "blind", f"the model answers differently when a gradient is asked for (by {apart:.0%} "
                "of the difference between photos)", "remove what depends on requires_grad or grad mode inside it")


def gradient_flag(answer: Answer, images: Tensor) -> Flag | None:
    """Blind where too many photos get no finite gradient of the sum of ``answer``."""
    try:
        gradient = _gradient(answer, images)
    except Exception as error:  # whatever the user's own code raises
        return Flag("gradient-fails", "blind", f"the model fails when its gradient is asked for "
                    f"({useful_line(error).rstrip('.')})", SCORES_ALONE)
    if not gradient.isfinite().all():
        return Flag("gradient-fails", "blind", "the model's gradient holds NaN or infinite values", SCORES_ALONE)
    return zero_gradient(gradient)


@torch.no_grad()
def ascent_flag(answer: Answer, images: Tensor) -> Flag | None:
    """Blind where small steps along the gradient do not raise the answer: it is the gradient of something else.

    The rise of the answer is compared with the one that the gradient foretells, at several lengths of step, since a
    short one drowns in rounding and a long one leaves the neighbourhood.
    """
    gradient = _gradient(answer, images)
    size = gradient.flatten(1).square().mean(1).sqrt()
    held, shape = size > 0, (-1, *[1] * (images.ndim - 1))
    best = -float("inf")
    for length in STEPS:
        step = length * gradient / size.clamp_min(torch.finfo(size.dtype).tiny).view(shape)
        up, down = (answer(images + way * step).reshape(len(images), -1).sum(1) for way in (1, -1))
        foretold = 2 * (step * gradient).flatten(1).sum(1)
        best = max(best, float(((up - down) / foretold)[held].nanmedian()))
    if best >= LEAST_RISE:
        return None
    return Flag("false-gradient", "blind", f"a small step along the model's gradient raises its answer by {best:.0%} "
                "of what the gradient foretells: it is not the gradient of that answer", "remove what replaces the "
                f"gradient inside the model, or {SCORES_ALONE}")


def _gradient(answer: Answer, images: Tensor) -> Tensor:
    """Of the sum of the answer; zero where the model cuts the graph."""
    x = images.clone().requires_grad_()
    with torch.enable_grad():
        total = answer(x).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(total, x, materialize_grads=True)[0]


def difference(first: Tensor, second: Tensor) -> float:
    """Root mean square difference of two answers ``(N, ...)``, over the spread of the first between photos."""
    spread_ = first.float().std(0, correction=0).square().mean().sqrt()
    apart = (first.float() - second.float()).square().mean().sqrt()
    return float(apart / spread_) if spread_ > 0 else 0.0
