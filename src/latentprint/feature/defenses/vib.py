"""Variational information bottleneck (Alemi et al. 2017, arXiv 1612.00410) on the features that are sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.feature.defense import FeatureDefense, Step, shape_of
from latentprint.feature.protection import VIBConfig


class VIB(FeatureDefense):
    """Sends ``z + s(z) n`` with ``n`` standard normal and a learned deviation ``s`` for every entry.

    The penalty is ``weight * KL( N(z, s^2) || N(0, 1) )`` in nats, averaged over entries. The deviation comes from a
    1x1 convolution of the features (a linear layer for flat ones) by a softplus.

    Raises:
        ValueError: features are neither maps nor vectors.
    """

    head: nn.Module

    def __init__(self, config: VIBConfig) -> None:
        super().__init__()
        self.config = config

    def edge(self, edge: nn.Module, example: Tensor) -> nn.Module:
        shape = shape_of(edge, example)
        if len(shape) not in (1, 3):
            raise ValueError(f"features must be (C, H, W) or (D,), got {shape}")
        n = shape[0]
        head = nn.Conv2d(n, n, 1) if len(shape) == 3 else nn.Linear(n, n)
        first = math.log(math.expm1(self.config.first_std))
        head.load_state_dict({"weight": torch.zeros_like(head.weight), "bias": torch.full((n,), first)})
        self.head = head
        return edge

    def std(self, features: Tensor) -> Tensor:
        """Deviation of the noise, ``(B, *F)``, above 0."""
        return F.softplus(self.head(features).float())

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        noise = torch.randn_like(features) if rng is None else torch.randn(features.shape, generator=rng).to(features)
        return features + self.std(features).to(features.dtype) * noise

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        std, mean = self.std(step.features), step.features.float()
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-6).log()).mean()
        return self.config.weight * divergence, {"vib": divergence.detach(), "vib_std": std.detach().mean()}

    def deployed(self) -> nn.Module | None:
        return self.head

    def joint_parameters(self) -> Sequence[Mapping[str, Any]]:
        return [{"params": list(self.head.parameters())}]
