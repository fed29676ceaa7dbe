"""What images show before anything learns from them: are faces aligned, and which images show nothing?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Readings: AT&T/ORL 0.45, procedural faces 0.58, the London set 0.71; the same moved at random by up to 40% of the
# picture and turned by up to half a radian 0.33, 0.16 and 0.21; CIFAR-10 0.08.
ALIGNED = 0.38
_SIDE, _MARGIN = 24, 4
_MOST = 500


#: Of fewer pictures nothing can be told: the readings of 16 aligned ones lie within about 0.1 of those of many.
FEWEST = 16


def alignment(images: Tensor) -> float:
    """Correlation of a picture's inside with the mean of very many others, 0 to 1.

    It is computed as the square root of the mean correlation between two pictures: the correlation with the mean of the
    few others of a small set would be lower, aligned or not.

    Args:
        images: ``(N, 3, H, W)`` uint8, at least two; of many, some hundreds are looked at.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(len(images), _MOST)).long()]
    grey = F.interpolate(chosen.float().mean(1, keepdim=True), (_SIDE, _SIDE), mode="bilinear", antialias=True)
    inside = grey[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].flatten(1)
    unit = F.normalize(inside - inside.mean(1, keepdim=True), dim=1)
    n = len(unit)
    between = (float(unit.sum(0).square().sum()) - float(unit.square().sum())) / (n * (n - 1))
    return math.sqrt(max(0.0, between))


#: Of 255: standard deviation below which an image counts as of one value, and the distance of mean plus (minus) two
#: standard deviations from black (white) below which it counts as black (white). 12-bit values read as 16-bit give
#: a mean of about 8 and a deviation of 4.
SPREAD, FROM_END = 3.0, 20.0
_AT_ONCE = 1024


def flat_ones(images: Tensor) -> Tensor:
    """``(N,)`` bool for ``(N, 3, H, W)`` uint8."""
    return torch.cat([_flat(part.flatten(1).float()) for part in images.split(_AT_ONCE)]) if len(images) else (
        torch.zeros(0, dtype=torch.bool))


def _flat(values: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(values, dim=1, correction=0)
    return (deviation < SPREAD) | (mean + 2 * deviation < FROM_END) | (mean - 2 * deviation > 255 - FROM_END)
