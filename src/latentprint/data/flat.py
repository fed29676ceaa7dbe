"""Which images show nothing: of one value, nearly black or nearly white."""

from __future__ import annotations

import torch
from torch import Tensor

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
