"""What a prior needs to know of attribute images: of a batch, and of a whole set too large to be held as floats."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentprint.data.base import ImageSet


@dataclass(frozen=True)
class Scene:
    """Attribute images as the prior sees them.

    Attributes:
        image: ``(B, 3, H, W)`` in [0, 1].
        hole: ``(B, 1, H, W)``, 1 where the face is repainted.
        latent: ``(B, C, h, w)`` of the whole picture.
        masked: ``(B, C, h, w)`` of the picture with the hole greyed out.
        keep: ``(B, 1, h, w)`` share of kept pixels.
        attributes: ``(B, 10)`` pose, expression and light, as the attribute network reads them.
        seen: ``(B, K)`` what the prior reads of it besides (`SwapPrior.seen`).
    """

    image: Tensor
    hole: Tensor
    latent: Tensor
    masked: Tensor
    keep: Tensor
    attributes: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: Tensor) -> Scene:
        return Scene(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def to(self, device: torch.device) -> Scene:
        return Scene(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Scenes:
    """The scenes of a set of photos, on the CPU: the pictures as the bytes they are, the rest encoded once.

    Attributes:
        data: the photos, with holes. encoded: their scenes without ``image`` and ``hole``, which are empty.
    """

    data: ImageSet
    encoded: Scene

    def __len__(self) -> int:
        return len(self.data)

    def take(self, index: Tensor) -> Scene:
        """Those of the photos at ``index`` (int64)."""
        assert self.data.holes is not None
        part = self.encoded.take(index)
        return replace(part, image=self.data.floats(index), hole=self.data.holes[index].float())
