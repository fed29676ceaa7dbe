"""Defences that change each message: noise, dropout, pruning of small entries."""

from __future__ import annotations

import torch
from torch import Tensor

from latentprint.feature.defense import FeatureDefense
from latentprint.feature.protection import DropoutConfig, NoiseConfig, TopKConfig


class Noise(FeatureDefense):
    """Independent noise on every entry; the published defence is Gaussian, of standard deviation 0.01 to 0.15.

    An adversary averages over messages where it can have several of one image, and trains its decoder on noisy ones.
    """

    def __init__(self, config: NoiseConfig) -> None:
        super().__init__()
        self.config, self.noise_std = config, config.std

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        if self.noise_std == 0:
            return features
        if self.config.law == "gaussian":
            return features + self.noise_std * _normal(features, rng)
        # The difference of two exponentials is Laplace of scale b, whose standard deviation is sqrt(2) b.
        first, second = (-torch.log1p(-_uniform(features, rng)) for _ in range(2))
        return features + self.noise_std / 2**0.5 * (first - second)


class Dropout(FeatureDefense):
    """A fresh mask for each message. An adversary sees which entries are 0, and trains on masked messages."""

    def __init__(self, config: DropoutConfig) -> None:
        super().__init__()
        self.config = config

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        if self.config.share == 0:
            return features
        kept = (_uniform(features, rng) >= self.config.share).to(features.dtype)
        return features * kept / (1 - self.config.share if self.config.rescaled else 1.0)


class TopK(FeatureDefense):
    """The entries smallest in size are set to 0; no gradient flows to them."""

    def __init__(self, config: TopKConfig) -> None:
        super().__init__()
        self.config = config

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        sizes = features.detach().abs().flatten(0 if self.config.scope == "batch" else 1)
        n = int(self.config.pruned * sizes.shape[-1])
        if n == 0:
            return features
        order = sizes.argsort(dim=-1, stable=True)
        kept = torch.ones_like(sizes).scatter(-1, order[..., :n], 0.0)
        return features * kept.view_as(features)


def _normal(like: Tensor, rng: torch.Generator | None) -> Tensor:
    return torch.randn_like(like) if rng is None else torch.randn(like.shape, generator=rng).to(like)


def _uniform(like: Tensor, rng: torch.Generator | None) -> Tensor:
    """In [0, 1), in float32 whatever the features are: bf16 would round up to 1."""
    if rng is None:
        return torch.rand(like.shape, device=like.device)
    return torch.rand(like.shape, generator=rng).to(like.device)
