"""The victim of the feature channel: an edge network whose features are sent, and a cloud network that answers.

An adversary intercepts what is sent. It may hold the edge network too (white box), and may run it on images of its
own; either way the defences are on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from latentprint.feature.defense import FeatureDefense
from latentprint.models.preprocess import Preprocess
from latentprint.victim import QueryCounter


class SplitVictim(nn.Module):
    """Edge and cloud with the defences between them.

    Args:
        edge: preprocessed images ``(B, 3, H', W')`` to features ``(B, *F)``.
        cloud: features to logits ``(B, C)``.
        n_classes: C.
        preprocess: from images in [0, 1] to what the edge network was made for.
        defences: applied in this order; their `FeatureDefense.edge` was applied by whoever made ``edge``.
        name: for messages and reports.
    """

    def __init__(self, edge: nn.Module, cloud: nn.Module, n_classes: int, *, preprocess: Preprocess | None = None,
                 defences: Sequence[FeatureDefense] = (), name: str = "victim") -> None:
        super().__init__()
        self.edge, self.cloud, self.n_classes, self.name = edge, cloud, n_classes, name
        self.preprocess = preprocess or Preprocess()
        self.defences = tuple(defences)
        self._registered = nn.ModuleList(defences)  # for their parameters to move and be saved with the victim
        self.queries = QueryCounter()

    # ---- what an attack may call ----

    def release(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """What leaves the device for images ``(B, 3, H, W)`` in [0, 1]: ``(B, *F)``, differentiable, counted.

        Args:
            rng: of the defences' random numbers; None draws from torch's global generator.
        """
        n = len(x)
        self.queries.forward += n
        sent = self.sent(self.features(x), rng)
        if sent.requires_grad:
            sent.register_hook(lambda _: self.queries.count_backward(n))
        return sent

    # ---- what training and evaluation use ----

    def features(self, x: Tensor) -> Tensor:
        """Features before any defence touches them, ``(B, *F)``, uncounted."""
        return self.edge(self.preprocess(x))

    def sent(self, features: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Features as the defences send them."""
        for defence in self.defences:
            features = defence.send(features, rng)
        return features

    def forward(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Logits ``(B, C)`` by way of what is sent, uncounted."""
        return self.cloud(self.sent(self.features(x), rng))

    @property
    def networks(self) -> nn.ModuleDict:
        """What is deployed: edge, cloud, and what defences run on the device, not what they train with."""
        own = {f"defence-{i}": d.deployed() for i, d in enumerate(self.defences)}
        kept = {name: module for name, module in own.items() if module is not None}
        return nn.ModuleDict({"edge": self.edge, "cloud": self.cloud, **kept})

    def freeze(self) -> Self:
        """Eval mode and no gradient for the weights, as attacks want it."""
        return self.requires_grad_(False).eval()

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on what is sent: of independent parts, variances add."""
        return math.sqrt(sum(defence.noise_std**2 for defence in self.defences))

    @property
    def device(self) -> torch.device:
        """Where images must lie."""
        return self.preprocess.mean.device
