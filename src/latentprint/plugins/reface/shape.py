"""How large the networks of the published checkpoint are, as settings of the libraries that build them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from latentprint.models.recognisers import EMBEDDING_DIM
from latentprint.plugins.stable.codec import SD_VAE

#: Stable Diffusion 1's U-Net with nine input channels; ``attention_head_dim`` means heads, for historical reasons.
UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 9, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
#: CLIP ViT-L/14.
CLIP: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 768,
}


@dataclass(frozen=True)
class Shape:
    """Settings of U-Net, autoencoder and CLIP, and the entries of an identity embedding."""

    unet: dict[str, Any] = field(default_factory=lambda: UNET)
    vae: dict[str, Any] = field(default_factory=lambda: SD_VAE)
    clip: dict[str, Any] = field(default_factory=lambda: CLIP)
    embedding_dim: int = EMBEDDING_DIM


PUBLISHED = Shape()
