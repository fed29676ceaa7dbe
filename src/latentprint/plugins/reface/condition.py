"""The one token that tells REFace's U-Net who to paint, and onto what.

``c = (P_src(E(source)) + P_tar(E(target)) + 10 P_id(A(source)) + 0.05 P_lm(L(target))) / 11.05``: E is CLIP's image
embedding through a small transformer, A the unit embedding of an ArcFace network and L 68 landmarks in pixels. Its
"source" is our identity image, its "target" our attribute image. Names of submodules are those of the checkpoint, so
that its keys fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from latentprint.models.recognisers import EMBEDDING_DIM

CLIP_WEIGHT, IDENTITY_WEIGHT, LANDMARK_WEIGHT = 1.0, 10.0, 0.05
LANDMARKS = 68
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class OneTokenAttention(nn.Module):
    """Attention with one head over a sequence of one token: its softmax is 1, so only the values count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_qkv, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.c_qkv(x).chunk(3, dim=-1)[2])


class Feedforward(nn.Module):
    """Four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """A transformer block, normalised before each half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.ln_1 = OneTokenAttention(width), nn.LayerNorm(width)
        self.mlp, self.ln_2 = Feedforward(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Mapper(nn.Module):
    """Five blocks on vectors ``(B, width)``."""

    def __init__(self, width: int, depth: int = 5) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class Condition(nn.Module):
    """Everything between pictures or embeddings and the token.

    Args:
        clip: settings of the CLIP vision tower; its ``projection_dim`` is the width of the token.
        embedding_dim: entries of an identity embedding.
    """

    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, clip: Mapping[str, Any], embedding_dim: int = EMBEDDING_DIM) -> None:
        super().__init__()
        width = int(clip["projection_dim"])
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip))
        self.mapper2, self.final_ln2 = Mapper(width), nn.LayerNorm(width)
        self.proj_out_source, self.proj_out_target = nn.Linear(width, width), nn.Linear(width, width)
        self.ID_proj_out = nn.Linear(embedding_dim, width)
        self.landmark_proj_out = nn.Linear(2 * LANDMARKS, width)
        self.learnable_vector = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("clip_mean", torch.tensor(_CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("clip_std", torch.tensor(_CLIP_STD).view(3, 1, 1), persistent=False)
        self.side = int(clip.get("image_size", 224))

    @property
    def width(self) -> int:
        return self.final_ln2.normalized_shape[0]

    def look(self, images: Tensor) -> Tensor:
        """E, ``(B, width)``, of pictures ``(B, 3, H, W)`` in [0, 1]."""
        x = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        embeds = self.model((x - self.clip_mean) / self.clip_std).image_embeds
        return self.final_ln2(self.mapper2(embeds))

    def token(self, source: Tensor, target: Tensor, identity: Tensor, landmarks: Tensor) -> Tensor:
        """c, ``(B, 1, width)``.

        Args:
            source, target: ``(B, width)``, E of the identity image and of the attribute image.
            identity: ``(B, embedding_dim)`` of unit norm.
            landmarks: ``(B, 136)``, x0, y0, x1, ... in pixels of a picture of 512; zeros where no face was found.
        """
        weighted = (CLIP_WEIGHT * (self.proj_out_source(source) + self.proj_out_target(target))
                    + IDENTITY_WEIGHT * self.ID_proj_out(identity)
                    + LANDMARK_WEIGHT * self.landmark_proj_out(landmarks))
        return (weighted / (CLIP_WEIGHT + IDENTITY_WEIGHT + LANDMARK_WEIGHT)).unsqueeze(1)
