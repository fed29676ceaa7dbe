"""Attacks: an author writes `Attack.run` and may be wrong in it; `Attack.__call__` decides what came out."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from latentprint.errors import RunFailed
from latentprint.types import Reconstruction
from latentprint.victim import Victim

QUERY_BATCH = 64


@dataclass(frozen=True)
class Draw:
    """What `Attack.run` hands over.

    Attributes:
        images: ``(N, 3, H, W)``, should lie within the victim's bounds, but that is not relied on.
        attribute_index: ``(N,)`` int64, the public image each is a swap onto; None when there is none.
    """

    images: Tensor
    attribute_index: Tensor | None = None


class Attack(ABC):
    """Draws faces of given classes out of a victim.

    A subclass takes its public data, prior and settings in its constructor and writes `run`.
    """

    selected_fraction: float = 0.5
    """Share of each class's images, in (0, 1], that count as selected."""

    @abstractmethod
    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        """One image for each pair of class and seed.

        Args:
            victim: the only way to the model under audit.
            classes: ``(N,)`` int64 in 0..C-1.
            seeds: ``(N,)`` int64; an image may depend on its class and seed, never on the order of the pairs.
        """

    @final
    def __call__(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Reconstruction:
        """Run the attack, clip what it drew, ask the victim about it, and count and time all of that.

        Selection is by the victim's confidence, which a real adversary has too: never by an evaluator.

        Args:
            classes, seeds: ``(N,)`` int64.

        Raises:
            ValueError: ``classes`` or ``seeds`` are not ``(N,)`` or name a class the victim does not have, or
                the attack drew another number of images.
            RunFailed: the attack drew values that are not finite.
        """
        _check_pairs(victim, classes, seeds)
        before = replace(victim.queries)
        start = time.perf_counter()
        draw = self.run(victim, classes, seeds)
        images = self._accepted(victim, draw, len(classes))
        confidence, prediction = _ask(victim, images, classes.cpu())
        return Reconstruction(
            images=images,
            classes=classes.cpu(),
            seeds=seeds.cpu(),
            attribute_index=_indices(draw, len(classes)),
            victim_confidence=confidence,
            victim_prediction=prediction,
            selected=select_best(confidence, classes.cpu(), self.selected_fraction),
            n_forward=victim.queries.forward - before.forward,
            n_backward=victim.queries.backward - before.backward,
            seconds=time.perf_counter() - start,
        )

    def _accepted(self, victim: Victim, draw: Draw, n: int) -> Tensor:
        """The images on the CPU, clipped because nothing is promised about what an attack returns."""
        if draw.images.ndim != 4 or len(draw.images) != n or draw.images.shape[1] != 3:
            shape = tuple(draw.images.shape)
            raise ValueError(f"{type(self).__name__} drew {shape}, expected ({n}, 3, H, W)")
        images = draw.images.detach().float().cpu()
        if not images.isfinite().all():
            raise RunFailed(f"{type(self).__name__} drew images with NaN or infinite values")
        return victim.bounds.clip(images)


def select_best(confidence: Tensor, classes: Tensor, fraction: float) -> Tensor:
    """The most confident images of each class: ``fraction`` of them, rounded up; the earlier of two equals.

    Args:
        confidence: ``(N,)``.
        classes: ``(N,)`` int64.
        fraction: in (0, 1].

    Returns:
        ``(N,)`` bool.

    Raises:
        ValueError: the fraction is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"selected fraction must lie in (0, 1], got {fraction}")
    selected = torch.zeros(len(classes), dtype=torch.bool)
    for y in classes.unique():
        members = (classes == y).nonzero().squeeze(1)
        # a hair less, for 0.07 * 100 is 7.000000000000001
        n = math.ceil(fraction * len(members) - 1e-9)
        order = confidence[members].argsort(descending=True, stable=True)
        selected[members[order[:n]]] = True
    return selected


@torch.no_grad()
def _ask(victim: Victim, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The victim's probability of each image's class, and its answer; both ``(N,)``, on the CPU."""
    probabilities = torch.cat(
        [victim.confidence(batch.to(victim.device)).float().cpu() for batch in images.split(QUERY_BATCH)]
    )
    return probabilities.gather(1, classes[:, None]).squeeze(1), probabilities.argmax(1)


def _indices(draw: Draw, n: int) -> Tensor:
    return torch.full((n,), -1) if draw.attribute_index is None else draw.attribute_index.cpu()


def _check_pairs(victim: Victim, classes: Tensor, seeds: Tensor) -> None:
    if classes.ndim != 1 or classes.shape != seeds.shape or not len(classes):
        shapes = f"{tuple(classes.shape)} and {tuple(seeds.shape)}"
        raise ValueError(f"expected as many classes as seeds, got {shapes}")
    if not 0 <= int(classes.min()) <= int(classes.max()) < victim.n_classes:
        raise ValueError(f"classes must lie in 0..{victim.n_classes - 1}")
