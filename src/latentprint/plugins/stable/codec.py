"""The autoencoder of Stable Diffusion as a `LatentCodec`: 512 px <-> 64 x 64 x 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from latentprint.models.codec import LatentCodec

#: Stable Diffusion 1's KL-f8 autoencoder.
SD_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    "scaling_factor": 0.18215, "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


class KLCodec(LatentCodec):
    """The mean of its posterior, scaled. (REFace draws a sample; the mean makes scenes the same in every run.)"""

    def __init__(self, vae: Mapping[str, Any]) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**vae)
        self.downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.vae.encode(x * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        return (self.vae.decode(z / self.vae.config.scaling_factor).sample + 1) / 2


def build(record: Mapping[str, Any]) -> KLCodec:
    """The network that an asset's record describes."""
    return KLCodec(record["vae"])
