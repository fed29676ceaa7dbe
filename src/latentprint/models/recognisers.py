"""Recognisers: a face picture -> a unit vector, compared by cosine.

Two that differ in architecture and margin: ``iresnet`` (residual PReLU, the attack's teacher) and ``convnext``
(depthwise GELU, the judge of the evaluation). Both see the face through the same stated crop, so that hair and
background, which belong to the photo and not to the person, mostly stay outside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.blocks import DepthwiseUnit, ResidualPReLU, crop_box
from latentprint.progress import tracked

#: Entries of an embedding where nothing else is said: those of the shipped networks and of most published ones.
EMBEDDING_DIM = 512
#: The inner-face crop, (top, left, height, width) as shares of the picture: 48 x 48 of 64 x 64.
FACE_CROP = (12 / 64, 8 / 64, 48 / 64, 48 / 64)


#: Length of the mean of unit embeddings above which they lie on one side of zero. Those of the embedded networks have a
#: mean of 0.07, those of faceres and dlib of 0.66 and 0.93.
ONE_SIDED = 0.3


def center_of(embeddings: Tensor) -> Tensor:
    """What to subtract from unit embeddings ``(N, D)`` so that cosines use their whole range: their mean ``(D,)`` where
    they lie on one side of zero, zeros where they do not."""
    mean = embeddings.mean(0)
    return mean if float(mean.norm()) > ONE_SIDED else torch.zeros_like(mean)


def centred(embeddings: Tensor, center: Tensor) -> Tensor:
    """Unit embeddings ``(N, D)`` less ``center``, unit again."""
    return F.normalize(embeddings - center, dim=1) if bool(center.any()) else embeddings


class EmbeddingNetwork(nn.Module, ABC):
    """x ``(B, 3, H, W)`` in [0, 1] -> unit embeddings ``(B, D)``.

    Attributes:
        dim: D.
        center: ``(D,)`` what is subtracted before normalisation, such as the mean over public photos where all
            embeddings lie on one side of zero, so that cosines use their whole range; None: nothing. Not trained, and
            part of the state dict only where it is set.
    """

    dim: int = EMBEDDING_DIM
    center: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", None)

    @abstractmethod
    def raw(self, x: Tensor) -> Tensor:
        """Embeddings as the network makes them, ``(B, D)``."""

    def centred(self, x: Tensor) -> Tensor:
        """Embeddings less the center, before normalisation: ``(B, D)`` float32."""
        raw = self.raw(x).float()
        return raw if self.center is None else raw - self.center

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.centred(x), dim=1)


class Recogniser(EmbeddingNetwork):
    """An embedded one, behind the stated crop; H and W are multiples of 16."""

    def __init__(self, trunk: nn.Module, width: int, input_size: int = 48, dim: int = EMBEDDING_DIM) -> None:
        super().__init__()
        self.trunk, self.input_size, self.dim = trunk, input_size, dim
        side = input_size // 16
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * side * side, dim, bias=False),
                                  nn.BatchNorm1d(dim))

    def raw(self, x: Tensor) -> Tensor:
        face = crop_box(x, FACE_CROP)
        if face.shape[-1] != self.input_size:
            face = F.interpolate(face, (self.input_size, self.input_size), mode="bilinear", antialias=True)
        return self.head(self.trunk(face * 2 - 1))


def iresnet(dim: int = EMBEDDING_DIM) -> Recogniser:
    """Residual PReLU network, 2 units a stage (1 in the last), widths 32 to 256, after a 2x2 space-to-depth stem."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32),
                               nn.PReLU(32)]
    width = 32
    for outer, stride, units in ((32, 1, 2), (64, 2, 2), (128, 2, 2), (256, 2, 1)):
        layers += [ResidualPReLU(width, outer, stride), *(ResidualPReLU(outer, outer) for _ in range(units - 1))]
        width = outer
    return Recogniser(nn.Sequential(*layers, nn.BatchNorm2d(width)), width, dim=dim)


def convnext(dim: int = EMBEDDING_DIM) -> Recogniser:
    """Depthwise-separable network, widths 64 to 256, after a 4x4 overlapping patch stem."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 4, 2, 1), nn.GELU(), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 2, 2)]
    layers += [DepthwiseUnit(64), DepthwiseUnit(64), nn.BatchNorm2d(64), nn.Conv2d(64, 128, 2, 2)]
    layers += [DepthwiseUnit(128) for _ in range(4)] + [nn.BatchNorm2d(128), nn.Conv2d(128, 256, 2, 2)]
    layers += [DepthwiseUnit(256) for _ in range(2)]
    return Recogniser(nn.Sequential(*layers, nn.BatchNorm2d(256)), 256, dim=dim)


RECOGNISERS = {"iresnet": iresnet, "convnext": convnext}


def build_recogniser(architecture: str, dim: int = EMBEDDING_DIM) -> Recogniser:
    """An untrained one with embeddings of ``dim`` entries.

    Raises:
        UserError: an unknown architecture.
    """
    if architecture not in RECOGNISERS:
        raise UserError(f"recogniser architecture {architecture!r} is unknown; expected {' or '.join(RECOGNISERS)}")
    return RECOGNISERS[architecture](dim=dim)


@torch.no_grad()
def embed(recogniser: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """Embeddings of uint8 or [0, 1] images ``(N, 3, H, W)``, computed in batches without gradient: ``(N, D)``.

    Computed every time; those of photos by a frozen network are kept by `latentprint.models.answers.embeddings`.
    """
    device = next(recogniser.parameters(), torch.empty(0)).device  # an outside runtime has no parameters
    parts = []
    for chunk in tracked(images.split(batch), f"embedding {len(images):,} images"):
        x = chunk.to(device).float()
        parts.append(recogniser(x / 255 if chunk.dtype == torch.uint8 else x).cpu())
    return torch.cat(parts) if parts else torch.empty(0, getattr(recogniser, "dim", EMBEDDING_DIM))


def build(record: Mapping[str, Any]) -> Recogniser:
    """The network that an asset's record describes."""
    return build_recogniser(record["architecture"], record.get("dim", EMBEDDING_DIM))
