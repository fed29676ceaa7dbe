"""How far images are from their references pixel by pixel, and how rough they are: ``(B, 3, H, W)`` to ``(B,)``.

Unlike `latentprint.metrics.image` they check no ranges: a decoder in training may leave [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

PixelLoss = Literal["mse", "l1", "ssim"]


def squared_error(images: Tensor, references: Tensor) -> Tensor:
    """``(B,)`` mean over pixels and colours of ``(x - y)^2``."""
    return (images - references).square().flatten(1).mean(1)


def absolute_error(images: Tensor, references: Tensor) -> Tensor:
    """``(B,)`` mean over pixels and colours of ``|x - y|``."""
    return (images - references).abs().flatten(1).mean(1)


def dissimilarity(images: Tensor, references: Tensor) -> Tensor:
    """``1 - SSIM``, ``(B,)`` in [0, 2] for images in [0, 1] of at least 11 pixels a side.

    Source: Wang et al. 2004, Gaussian window of 11 pixels, sigma 1.5.
    """
    similarity = structural_similarity_index_measure(images, references, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)  # a pair only where the whole map is asked for
    return 1 - similarity


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down plus across: ``(B,)`` in [0, 2] for images in [0, 1].

    Source: Rudin, Osher and Fatemi 1992, in its anisotropic form.
    """
    down, across = images.diff(dim=-2), images.diff(dim=-1)
    return down.abs().flatten(1).mean(1) + across.abs().flatten(1).mean(1)


PIXEL_LOSSES: Mapping[PixelLoss, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mse": squared_error, "l1": absolute_error, "ssim": dissimilarity})
