"""The way from one identity embedding to another, on or off the unit sphere the prior was trained on.

A convex combination of unit vectors leaves the sphere: at 90 degrees its norm falls to 0.71, where the prior
has never been. `lerp` is that combination, as the notes write it; `lerp_normalised` and `slerp` stay on the
sphere.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mixing = Literal["slerp", "lerp", "lerp_normalised"]

# Radians short of opposite at which the shortest arc stops being defined in float32.
NEARLY_OPPOSITE = 0.01


def mix(real: Tensor, label: Tensor, lam: float | Tensor, how: Mixing = "slerp") -> Tensor:
    """The embedding a share ``lam`` of the way from ``real`` to ``label``.

    Gradients are finite everywhere, at equal vectors too. Opposite vectors have no shortest arc: ``label`` is
    then tilted by 0.02 rad towards the coordinate axis it leans on least, which makes the way unique.

    Args:
        real, label: ``(B, D)``, D at least 2. The two normalised ways take their directions alone.
        lam: in [0, 1]; a number, ``()`` or ``(B,)``.
        how: `slerp` turns at constant speed (Shoemake 1985), `lerp_normalised` projects the convex
            combination on the sphere, `lerp` leaves it where it is.

    Returns:
        ``(B, D)``; unit vectors, except under `lerp`.

    Raises:
        ValueError: unknown ``how``.
    """
    lam = torch.as_tensor(lam, dtype=real.dtype, device=real.device).reshape(-1, 1)
    if how == "lerp":
        return (1 - lam) * real + lam * label
    real = F.normalize(real, dim=1)
    label = _off_opposite(real, F.normalize(label, dim=1))
    if how == "lerp_normalised":
        return F.normalize((1 - lam) * real + lam * label, dim=1)
    if how == "slerp":
        angle = _angle(real, label)
        return F.normalize(_share(1 - lam, angle) * real + _share(lam, angle) * label, dim=1)
    raise ValueError(f"how must be slerp, lerp or lerp_normalised, got {how!r}")


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """``(B, 1)`` angle of unit vectors; the arccosine would have an infinite slope at equal ones."""
    return 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))


def _share(lam: Tensor, angle: Tensor) -> Tensor:
    """``sin(lam angle) / sin(angle)``, by way of sinc so that it is ``lam`` and smooth at angle 0."""
    turns = angle / math.pi
    return lam * torch.sinc(lam * turns) / torch.sinc(turns)


def _off_opposite(a: Tensor, b: Tensor) -> Tensor:
    """``b``, tilted where it is opposite to ``a`` within `NEARLY_OPPOSITE`."""
    axis = F.one_hot(b.abs().argmin(1), b.shape[1]).to(b)
    sideways = F.normalize(axis - (axis * b).sum(1, keepdim=True) * b, dim=1)
    tilted = F.normalize(b + 2 * NEARLY_OPPOSITE * sideways, dim=1)
    return torch.where(_angle(a, b).detach() > math.pi - NEARLY_OPPOSITE, tilted, b)
