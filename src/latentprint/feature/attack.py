"""Attacks on features: an author writes `FeatureAttack.fit` and `run`; `__call__` decides what came out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.errors import RunFailed
from latentprint.feature.victim import SplitVictim


@dataclass(frozen=True)
class Inverted:
    """What an attack made of intercepted features.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1], on the CPU.
        n_forward: images that the edge network was run on, for learning and inversion together.
        n_backward: images for which its gradient was asked.
        seconds: wall-clock time of learning and inversion.
    """

    images: Tensor
    n_forward: int
    n_backward: int
    seconds: float


class FeatureAttack(ABC):
    """Turns intercepted features back into images."""

    name: str

    @abstractmethod
    def fit(self, victim: SplitVictim, known: ImageSet) -> None:
        """Learn from images that the adversary holds, asking ``victim.release`` what it would send for them.

        Args:
            known: none of the images under attack, unless the protocol says so.
        """

    @abstractmethod
    def run(self, victim: SplitVictim, sent: Tensor) -> Tensor:
        """``(N, 3, H, W)`` images for what was intercepted.

        Args:
            sent: ``(N, R, *F)``, R messages of each image (repeated queries where the protocol allows them, else 1).
        """

    @final
    def __call__(self, victim: SplitVictim, known: ImageSet, sent: Tensor) -> Inverted:
        """Learn, invert, clip, count and time.

        Raises:
            RunFailed: the attack drew values that are not finite.
            ValueError: it drew another number of images.
        """
        before, start = replace(victim.queries), time.perf_counter()
        self.fit(victim, known)
        images = self.run(victim, sent).detach().float().cpu().contiguous()
        if images.shape != (len(sent), 3, *known.images.shape[2:]):
            raise ValueError(f"{type(self).__name__} drew {tuple(images.shape)}, expected "
                             f"{(len(sent), 3, *known.images.shape[2:])}")
        if not torch.isfinite(images).all():
            raise RunFailed(f"{type(self).__name__} drew images with NaN or infinite values")
        return Inverted(images.clamp(0, 1), victim.queries.forward - before.forward,
                        victim.queries.backward - before.backward, time.perf_counter() - start)
