"""How far an image's features are from those that were sent: what white-box attacks descend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.feature.attacks.base import PROBE, clean_features, messages, require_ready
from latentprint.feature.victim import SplitVictim

#: Messages of each known image by which a defence that erases entries is noticed.
LOOKS = 4


@dataclass(frozen=True)
class Matching:
    """A scale for features, and whether a zero in a message says anything.

    Attributes:
        variance: of the clean features over known images, mean over entries, above 0.
        erases: the victim sends exact zeros where the features are none; they then count for nothing.
    """

    variance: float
    erases: bool

    def __call__(self, victim: SplitVictim, x: Tensor, joined: Tensor) -> Tensor:
        """Mean squared difference of the clean features of ``(B, 3, H, W)`` images from joined messages ``(B, *F)``.

        Returns:
            ``(B,)`` in units of the features' variance, differentiable and counted as queries.
        """
        error = (clean_features(victim, x) - joined).square().flatten(1)
        if not self.erases:
            return error.mean(1) / self.variance
        held = (joined != 0).flatten(1)
        return (error * held).sum(1) / held.sum(1).clamp_min(1) / self.variance


@torch.no_grad()
def measure(victim: SplitVictim, known: ImageSet, seed: int) -> Matching:
    """Look at some known images.

    Raises:
        UserError: no known images.
        ValueError: the victim is in training mode.
    """
    require_ready(victim, known)
    index = torch.randperm(len(known), generator=generator(seed, "matching"))[:PROBE]
    x = known.floats(index).to(victim.device)
    clean = clean_features(victim, x)
    sent = messages(victim, x, LOOKS, generator(seed, "matching", "messages"))
    variance = float(clean.var(0, correction=0).mean())
    return Matching(variance if variance > 0 else 1.0, bool(((sent == 0) & (clean[:, None] != 0)).any()))
