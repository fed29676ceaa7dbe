"""Random affine views of pictures, in one batched and differentiable pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warped(pictures: Tensor, rng: torch.Generator, turn: float = 0.0, shift: float = 0.0, zoom: float = 0.0,
           light: float = 0.0, mirror: bool = False) -> Tensor:
    """Each picture turned, shifted, zoomed, lit and mirrored by amounts of its own, uniform within the bounds.

    Args:
        pictures: ``(B, 3, H, W)``.
        rng: CPU generator.
        turn: at most so many radians either way. shift: at most this share of the picture. zoom, light: by at most
            this factor more or less. mirror: half of them left to right.

    Returns:
        ``(B, 3, H, W)`` float32, reflected at the borders; ``light`` may lead out of [0, 1].
    """
    with torch.autocast(pictures.device.type, enabled=False):  # half-precision coordinates would shift the picture
        x = pictures.float()
        unit = torch.rand(len(x), 6 if mirror else 5, generator=rng).to(x) * 2 - 1
        angle, scale = turn * unit[:, 0], 1 + zoom * unit[:, 1]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        side = unit[:, 5].sign() if mirror else torch.ones_like(cos)
        matrix = torch.stack([torch.stack([side * cos, -sin, 2 * shift * unit[:, 2]], 1),
                              torch.stack([side * sin, cos, 2 * shift * unit[:, 3]], 1)], 1)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        moved = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        return moved * (1 + light * unit[:, 4]).view(-1, 1, 1, 1)
