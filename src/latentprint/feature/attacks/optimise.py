"""White-box inversion: move pixels until the edge network's features are those that were sent.

    min_u  ||f(sigmoid(u)) - z||^2 / var f  +  w TV(sigmoid(u))

Source: He, Zhang and Lee 2019, Model inversion attacks against collaborative inference (ACSAC), section 4.1: known
parameters, total variation; Adam with amsgrad as in the code of arXiv:2503.00383. The logistic function keeps pixels
in (0, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.loop import warm_cosine
from latentprint.engine.seeds import derive, seeded_noise
from latentprint.feature.attack import FeatureAttack
from latentprint.feature.attacks.base import Harness, batches
from latentprint.feature.attacks.matching import Matching, measure
from latentprint.feature.victim import SplitVictim
from latentprint.losses.pixel import total_variation
from latentprint.progress import tracked

#: How near 0 or 1 the pixels of a start may be: their logits stay finite and can still be moved.
EDGE = 0.02


class OptimiseAttack(FeatureAttack):
    """Needs the edge network and its gradients; of known images only their mean and the scale of features.

    Each image is sought on its own, whatever is beside it in a batch. Killed midway it starts over.
    """

    name = "optimise"
    mean: Tensor
    matching: Matching

    def __init__(self, harness: Harness) -> None:
        self.harness = harness

    def fit(self, victim: SplitVictim, known: ImageSet) -> None:
        self.matching = measure(victim, known, self.harness.seed)
        self.mean = known.mean()

    def run(self, victim: SplitVictim, sent: Tensor) -> Tensor:
        joined, parts = self.harness.joined(sent), []
        for part in tracked(list(batches(len(sent), self.harness.settings.optimise.batch)), self.name, stage=True):
            parts.append(self.best_start(victim, joined[part].to(victim.device), part).cpu())
        return torch.cat(parts)

    def best_start(self, victim: SplitVictim, joined: Tensor, index: Tensor) -> Tensor:
        """Of several descents for messages ``(B, *F)`` the picture of each image that matches best.

        Args:
            index: ``(B,)`` of the images, on which their starts depend.
        """
        ends = [self.descend(victim, joined, self.start(index, start).to(joined.device))
                for start in range(self.harness.settings.optimise.starts)]
        least = torch.stack([loss for _, loss in ends]).argmin(0)
        return torch.stack([x for x, _ in ends])[least, torch.arange(len(joined), device=joined.device)]

    def start(self, index: Tensor, start: int) -> Tensor:
        """Logits ``(B, 3, H, W)`` of the mean image; noisy but for the first start."""
        logits = self.mean.clamp(EDGE, 1 - EDGE).logit().expand(len(index), *self.mean.shape)
        if start == 0:
            return logits.clone()
        seeds = torch.tensor([derive(self.harness.seed, self.name, start, i) for i in index.tolist()])
        return logits + self.harness.settings.optimise.start_noise * seeded_noise(seeds, tuple(self.mean.shape))

    def descend(self, victim: SplitVictim, joined: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Where the descent from ``logits`` ends: pictures ``(B, 3, H, W)`` and their losses ``(B,)``."""
        settings = self.harness.settings.optimise
        logits.requires_grad_(True)
        optimizer, factor = torch.optim.Adam([logits], settings.lr, amsgrad=True), warm_cosine(settings.steps)
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.lr * factor(step)
            # By name: the edge network's weights get no gradient.
            (logits.grad,) = torch.autograd.grad(self.loss(victim, logits.sigmoid(), joined).sum(), logits)
            optimizer.step()
        with torch.no_grad():
            x = logits.sigmoid()
            return x, self.loss(victim, x, joined)

    def loss(self, victim: SplitVictim, x: Tensor, joined: Tensor) -> Tensor:
        """``(B,)``"""
        return self.matching(victim, x, joined) + self.harness.settings.optimise.variation * total_variation(x)
