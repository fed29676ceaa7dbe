"""A Stable Diffusion U-Net as a `SwapPrior`: identity and attribute tokens where the text's were.

A U-Net for inpainting takes its own nine channels (noisy latent, mask with 1 = hole, masked latent); one without takes
four, and is widened by five that begin at zero, in our order (noisy, masked, mask with 1 = keep). The tokens are
untrained at first: `latentprint pretrain prior --set base=FOLDER` teaches the network to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from latentprint.diffusion.prior import UNET_TARGETS, TokenPrior
from latentprint.models.codec import LATENT_CHANNELS
from latentprint.models.recognisers import EMBEDDING_DIM

#: Channels of an inpainting U-Net, and of one as this package makes it.
CHANNELS = 2 * LATENT_CHANNELS + 1


class StablePrior(TokenPrior):
    """See the module.

    Args:
        unet, schedule: settings of the network and of the noise.
        identity_tokens: M.
        hole_first: the channels are in the order of Stable Diffusion inpainting.
        embedding_dim: entries of an embedding.
    """

    def __init__(self, unet: Mapping[str, Any], schedule: Mapping[str, Any], identity_tokens: int,
                 hole_first: bool, embedding_dim: int = EMBEDDING_DIM) -> None:
        super().__init__()
        self.schedule, self.targets, self.hole_first = DDIMScheduler(**schedule), UNET_TARGETS, hole_first
        self.unet = UNet2DConditionModel(**unet)
        self.add_tokens(identity_tokens, int(self.unet.config.cross_attention_dim), embedding_dim)

    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        channels = [noisy, 1 - keep, masked] if self.hole_first else [noisy, masked, keep]
        return self.unet(torch.cat(channels, 1), timestep, tokens).sample


def build(record: Mapping[str, Any]) -> StablePrior:
    """The network that an asset's record describes."""
    return StablePrior(record["unet"], record["schedule"], record["identity_tokens"], record["hole_first"],
                       record.get("embedding_dim", EMBEDDING_DIM))
