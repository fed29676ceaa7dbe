"""Networks of attributes: pose, expression and light of a face, differentiable.

Their trunks double as the embedded perceptual network (three depths) and as the extractor of Frechet distances, both
of which the reports name as such. `AttributeNetwork` learned either from rendered faces, where attributes are known,
or on photos what `latentprint.plugins.faces.attributes` measures in them; the latter can stand in its place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.procedural import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES
from latentprint.models.blocks import ResidualPReLU
from latentprint.progress import tracked

#: Columns of each attribute group, e.g. pose -> (0, 1, 2).
GROUP_COLUMNS = {group: tuple(ATTRIBUTE_NAMES.index(n) for n in names) for group, names in ATTRIBUTE_GROUPS.items()}
FEATURE_DIM = 128
#: Of the pictures that it was trained on.
SIDE = 64
Domain = Literal["procedural", "real"]
#: Attributes whose sign a mirrored picture changes.
SIDED = ("yaw", "roll", "light_x")


class AttributeReader(nn.Module, ABC):
    """x ``(B, 3, H, W)`` in [0, 1] -> ``(B, 10)``, in the order of ``ATTRIBUTE_NAMES``, each about [-1, 1].

    Attributes:
        name: what reports call the network whose features distances are taken in.
    """

    name: str

    @abstractmethod
    def depths(self, x: Tensor) -> list[Tensor]:
        """Feature maps at three depths, coarse last."""

    def pooled(self, x: Tensor) -> Tensor:
        """``(B, D)`` features of the deepest map, averaged over space: the extractor of Frechet distances."""
        return self.depths(x)[-1].mean((2, 3))


class AttributeNetwork(AttributeReader):
    """x ``(B, 3, H, W)`` in [0, 1] -> ``(B, 10)``; ``pooled`` has `FEATURE_DIM` features.

    Args:
        domain: of the faces that it learned from.
    """

    def __init__(self, domain: Domain = "procedural") -> None:
        super().__init__()
        self.name = "attribute network" if domain == "procedural" else "attribute network of real faces"
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32),
                                  nn.PReLU(32))
        self.stages = nn.ModuleList([ResidualPReLU(32, 32, 2), ResidualPReLU(32, 64, 2), ResidualPReLU(64, 128, 2)])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(FEATURE_DIM * 16, 128), nn.PReLU(),
                                  nn.Linear(128, len(ATTRIBUTE_NAMES)))

    def depths(self, x: Tensor) -> list[Tensor]:
        """Feature maps at three depths, coarse last."""
        maps = []
        if x.shape[-1] > SIDE:  # larger ones would be seen at another scale than it was trained at
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        h = self.stem(x * 2 - 1)
        for stage in self.stages:
            h = stage(h)
            maps.append(h)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < SIDE:
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        return self.head(self.depths(x)[-1])


@torch.no_grad()
def in_batches(function: nn.Module, images: Tensor, method: str = "forward", batch: int = 256) -> Tensor:
    """``function.method`` over uint8 images ``(N, 3, H, W)`` without gradient, results on the CPU, every time anew."""
    device = next(function.parameters()).device
    call = getattr(function, method)
    chunks = tracked(images.split(batch), f"reading {len(images):,} images")
    return torch.cat([call(chunk.to(device).float() / 255).cpu() for chunk in chunks])


def agreement(predicted: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Pearson correlation of each attribute ``(N, 10)``; None where one does not vary."""
    a, b = (x.double() - x.double().mean(0) for x in (predicted, truth))
    found = ((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).tolist()
    return {name: rounded(r) for name, r in zip(ATTRIBUTE_NAMES, found, strict=True)}


def rounded(value: float) -> float | None:
    """To four digits, as records of assets keep numbers; None for NaN and infinity."""
    return round(value, 4) if math.isfinite(value) else None


def build(record: Mapping[str, Any]) -> AttributeNetwork:
    """The network that an asset's record describes."""
    return AttributeNetwork(record.get("domain", "procedural"))


def mirrored(attributes: Tensor) -> Tensor:
    """Attributes ``(B, 10)`` of the mirrored pictures."""
    signs = [-1.0 if name in SIDED else 1.0 for name in ATTRIBUTE_NAMES]
    return attributes * attributes.new_tensor(signs)
