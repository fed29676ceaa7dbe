"""The embedded codec: a picture <-> a latent at a quarter of its size (64x64x3 <-> 16x16x4, or more channels)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.models.blocks import NormResidual

#: Of the packaged codec, and of Stable Diffusion's.
LATENT_CHANNELS = 4


class LatentCodec(nn.Module, ABC):
    """Pictures ``(B, 3, H, W)`` in [0, 1] <-> latents ``(B, C, h, w)`` of about unit variance; h = H / downscale."""

    downscale: int

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Latent of a picture."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Picture of a latent. Not clamped, so that gradients flow; clamp before looking at it."""


class Codec(LatentCodec):
    """The embedded one, small and deterministic, its latents standardised per channel.

    Pictures ``(B, 3, H, W)`` lie in [0, 1], latents are ``(B, channels, H/4, W/4)``; H and W are multiples of 4.
    """

    downscale = 4
    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width // 2, 3, 1, 1), NormResidual(width // 2, width // 2),
            nn.PixelUnshuffle(2), nn.Conv2d(2 * width, 2 * width, 1), NormResidual(2 * width, 2 * width),
            nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Conv2d(2 * width, channels, 3, 1, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 3, 1, 1), NormResidual(2 * width, 2 * width),
            NormResidual(2 * width, 2 * width), nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2),
            NormResidual(width, width), nn.GroupNorm(8, width), nn.SiLU(),
            nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def encode(self, x: Tensor) -> Tensor:
        return (self.encoder(x * 2 - 1) - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        return (self.decoder(z * self.std + self.mean) + 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def build(record: Mapping[str, Any]) -> Codec:
    """The network that an asset's record describes."""
    return Codec(channels=record.get("channels", LATENT_CHANNELS))
