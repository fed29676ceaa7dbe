"""What the prior-guided attack reads from messages: who they show, and how."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.faceregion import default_hole
from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.models.decoders import Standardise

#: Side in pixels of the pictures that the prior was trained on.
PRIOR_SIZE = 64
#: A map is pooled to at most so many positions a side before it is read.
READ_SIZE = 8


class FaceReader(nn.Module):
    """Messages ``(B, *F)`` to unit embeddings ``(B, dim)`` and attributes ``(B, 10)``: who it is, and how they look.

    Maps are mixed by two convolutions and pooled to 8x8 at most; two hidden layers follow.
    """

    def __init__(self, shape: tuple[int, ...], dim: int, hidden: int = 512, width: int = 64,
                 dropout: float = 0.2) -> None:
        super().__init__()
        self.standardise, self.dim, n = Standardise(shape), dim, math.prod(shape)
        self.trunk: nn.Module = nn.Flatten()
        if len(shape) == 3:
            channels, h, w = shape
            kept = (min(h, READ_SIZE), min(w, READ_SIZE))
            self.trunk = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.GELU(),
                                       nn.Conv2d(width, width, 3, 1, 1), nn.GELU(), nn.AdaptiveAvgPool2d(kept),
                                       nn.Flatten())
            n = width * math.prod(kept)
        self.head = nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden),
                                  nn.GELU(), nn.Dropout(dropout),
                                  nn.Linear(hidden, dim + len(ATTRIBUTE_NAMES)))

    def forward(self, sent: Tensor) -> tuple[Tensor, Tensor]:
        embedding, attributes = self.head(self.trunk(self.standardise(sent))).tensor_split([self.dim], 1)
        return F.normalize(embedding, dim=1), attributes


def usual_hole(known: ImageSet) -> Tensor:
    """``(1, 64, 64)`` float, 1 where most known faces lie: of the faces under attack nobody tells the adversary.

    An upright ellipse where the known images say nothing.
    """
    if known.holes is None:
        return default_hole(PRIOR_SIZE).float()
    share = known.holes.float().mean(0, keepdim=True)
    return (F.interpolate(share, (PRIOR_SIZE, PRIOR_SIZE), mode="bilinear", antialias=True)[0] >= 0.5).float()
