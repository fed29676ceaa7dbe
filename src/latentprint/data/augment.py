"""Random affine views of pictures, in one batched and differentiable pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.warp import resample


class Moves(NamedTuple):
    """What is done to each of B pictures.

    Attributes:
        turn: ``(B,)`` radians counter-clockwise. zoom, light: ``(B,)`` factors; a picture is shown smaller by ``zoom``.
        shift: ``(B, 2)`` to the left and up, as shares of the picture. side: ``(B,)`` -1 where it is mirrored after
            that, else 1.
    """

    turn: Tensor
    zoom: Tensor
    shift: Tensor
    light: Tensor
    side: Tensor


def random_moves(n: int, rng: torch.Generator, turn: float = 0.0, shift: float = 0.0, zoom: float = 0.0,
                 light: float = 0.0, mirror: bool = False) -> Moves:
    """Moves of ``n`` pictures, uniform within the bounds.

    Args:
        rng: CPU generator.
        turn: at most so many radians either way. shift: at most this share of the picture. zoom, light: by at most
            this factor more or less. mirror: half of them left to right.
    """
    unit = torch.rand(n, 6 if mirror else 5, generator=rng) * 2 - 1
    side = unit[:, 5].sign() if mirror else torch.ones(n)
    return Moves(turn * unit[:, 0], 1 + zoom * unit[:, 1], shift * unit[:, 2:4], 1 + light * unit[:, 4], side)


def moved(pictures: Tensor, moves: Moves) -> Tensor:
    """Pictures ``(B, 3, H, W)`` turned, shifted, zoomed, mirrored and lit.

    Returns:
        ``(B, 3, H, W)`` float32, reflected at the borders; ``light`` may lead out of [0, 1].
    """
    with torch.autocast(pictures.device.type, enabled=False):  # half-precision coordinates would shift the picture
        x = pictures.float()
        turn, zoom, shift, light, side = (each.to(x) for each in moves)
        cos, sin = zoom * turn.cos(), zoom * turn.sin()
        matrix = torch.stack([torch.stack([side * cos, -sin, 2 * shift[:, 0]], 1),
                              torch.stack([side * sin, cos, 2 * shift[:, 1]], 1)], 1)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False) * light.view(-1, 1, 1, 1)


def warped(pictures: Tensor, rng: torch.Generator, turn: float = 0.0, shift: float = 0.0, zoom: float = 0.0,
           light: float = 0.0, mirror: bool = False) -> Tensor:
    """`moved` by `random_moves`."""
    return moved(pictures, random_moves(len(pictures), rng, turn, shift, zoom, light, mirror))


def jittered(x: Tensor, jitter: float, rng: torch.Generator) -> Tensor:
    """Pictures ``(B, C, H, H)``, each turned by about ``jitter`` radians, scaled by ``1 + jitter`` and shifted by
    ``jitter`` of its side, all at a lower resolution: one of 3/4 of theirs to theirs."""
    turn, grow, *shift = (jitter * torch.randn(4, len(x), generator=rng)).unbind()
    cos, sin = grow.exp() * turn.cos(), grow.exp() * turn.sin()
    rows = [torch.stack([cos, -sin, 0.5 - 0.5 * cos + 0.5 * sin + shift[0]], 1),
            torch.stack([sin, cos, 0.5 - 0.5 * sin - 0.5 * cos + shift[1]], 1)]  # about the middle
    side = x.shape[-1]
    smaller = int(torch.randint(3 * side // 4, side + 1, (), generator=rng))
    small = F.interpolate(x, (smaller, smaller), mode="bilinear", antialias=True, align_corners=False)
    return resample(small, torch.stack(rows, 1), side)
