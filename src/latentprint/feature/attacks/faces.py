"""What the prior-guided attack knows of faces: the shipped networks, and who and how a message shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.faceregion import default_hole
from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.diffusion.prior import FaceSwapPrior
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import lay_out
from latentprint.errors import UserError
from latentprint.models.assets import find_asset, load_asset
from latentprint.models.codec import Codec
from latentprint.models.decoders import Standardise
from latentprint.models.recognisers import EMBEDDING_DIM

#: Side in pixels of the pictures that the prior was trained on.
PRIOR_SIZE = 64
#: A map is pooled to at most so many positions a side before it is read.
READ_SIZE = 8


@dataclass(frozen=True)
class FaceTools:
    """The prior with its helpers, and the recogniser in whose space it takes identities. Frozen, on one device."""

    swapper: Swapper
    teacher: nn.Module


def load_tools(assets: Path | None, device: torch.device) -> FaceTools:
    """The networks as shipped, or those of a folder.

    Raises:
        UserError: one is missing or damaged, or the prior was trained with others than these.
    """
    for name, needed in find_asset("prior", assets)[1].get("needs", {}).items():
        if find_asset(name, assets)[1]["sha256"] != needed:
            raise UserError(f"assets: the prior was trained with another {name}; retrain it with 'latentprint pretrain "
                            "prior'")
    codec, attributes, prior, teacher = (lay_out(load_asset(name, assets), device)
                                         for name in ("codec", "attributes", "prior", "teacher"))
    if not isinstance(codec, Codec) or not isinstance(prior, FaceSwapPrior):
        raise UserError("assets: 'codec' and 'prior' must be those that 'latentprint pretrain' makes")
    return FaceTools(Swapper(prior, codec, attributes), teacher)


class FaceReader(nn.Module):
    """Messages ``(B, *F)`` to unit embeddings ``(B, 512)`` and attributes ``(B, 10)``: who it is, and how they look.

    Maps are mixed by two convolutions and pooled to 8x8 at most; two hidden layers follow.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int = 512, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.standardise, n = Standardise(shape), math.prod(shape)
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
                                  nn.Linear(hidden, EMBEDDING_DIM + len(ATTRIBUTE_NAMES)))

    def forward(self, sent: Tensor) -> tuple[Tensor, Tensor]:
        embedding, attributes = self.head(self.trunk(self.standardise(sent))).tensor_split([EMBEDDING_DIM], 1)
        return F.normalize(embedding, dim=1), attributes


def usual_hole(known: ImageSet) -> Tensor:
    """``(1, 64, 64)`` float, 1 where most known faces lie: of the faces under attack nobody tells the adversary.

    An upright ellipse where the known images say nothing.
    """
    if known.holes is None:
        return default_hole(PRIOR_SIZE).float()
    share = known.holes.float().mean(0, keepdim=True)
    return (F.interpolate(share, (PRIOR_SIZE, PRIOR_SIZE), mode="bilinear", antialias=True)[0] >= 0.5).float()
