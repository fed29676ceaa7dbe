"""Similarities (rotation, scale, shift) between points, and pictures resampled by them.

Coordinates are fractions of a picture, x to the right and y down. A *chip* is the square that is cut out of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(points: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity that brings points nearest to where they are expected, in the sense of least squares.

    Args:
        points: ``(N, K, 2)``. expected: ``(K, 2)``.

    Returns:
        ``(N, 2, 3)`` from the chip's coordinates back to the picture's, for `resample`; and ``(N,)`` root mean squared
        distances in units of the chip's side.
    """
    source, goal = torch.view_as_complex(points.contiguous()), torch.view_as_complex(expected.to(points).contiguous())
    middle, aim = source.mean(1, keepdim=True), goal.mean()
    around = source - middle
    turn = (around.conj() * (goal - aim)).sum(1) / around.abs().square().sum(1).clamp_min(1e-12)
    off = turn[:, None] * around + aim - goal
    back = 1 / torch.where(turn.abs() < 1e-9, torch.ones_like(turn), turn)
    shift = middle.squeeze(1) - back * aim
    rows = [torch.stack([back.real, -back.imag, shift.real], 1), torch.stack([back.imag, back.real, shift.imag], 1)]
    return torch.stack(rows, 1), off.abs().square().mean(1).sqrt()


def resample(x: Tensor, matrix: Tensor, side: int) -> Tensor:
    """Chips ``(B, C, side, side)`` of square pictures ``(B, C, H, H)``; what lies outside repeats the edge.

    A picture with more pixels than its chip is shrunk first, by itself: a chip does not depend on its neighbours.

    Args:
        matrix: ``(B or 1, 2, 3)`` from the chip's coordinates to the picture's.
    """
    # Half precision has steps of a 256th of the picture where chips lie.
    with torch.autocast(x.device.type, enabled=False):
        return _resampled(x if x.dtype == torch.float64 else x.float(), matrix, side)


def _resampled(x: Tensor, matrix: Tensor, side: int) -> Tensor:
    matrix = matrix.to(x).expand(len(x), 2, 3)
    sizes = _shrunk_sides(matrix[:, :, 0].norm(dim=1) * x.shape[-1] / side, x.shape[-1])
    chips, order = [], []
    for size in sizes.unique().tolist():
        index = (sizes == size).nonzero().squeeze(1)
        own = x if len(index) == len(x) else x[index]
        if size < x.shape[-1]:
            own = F.interpolate(own, (size, size), mode="bilinear", antialias=True, align_corners=False)
        chips.append(_sampled(own, matrix[index], side))
        order.append(index)
    return chips[0] if len(chips) == 1 else torch.cat(chips)[torch.cat(order).argsort()]


def _shrunk_sides(steps: Tensor, side: int) -> Tensor:
    """Sides ``(B,)`` at which a chip's pixel is 1 to 1.2 of the picture's; as they are where it is smaller.

    Args:
        steps: ``(B,)`` pixels of the picture to one of the chip.
    """
    shrink = 2 ** ((4 * steps.clamp_min(1).log2()).floor() / 4)  # by few factors, so that pictures share them
    return (side / shrink).round().clamp_min(1).long()


def _sampled(x: Tensor, matrix: Tensor, side: int) -> Tensor:
    # affine_grid counts from -1 to 1: u' = 2 u - 1.
    theta = torch.cat([matrix[:, :, :2], matrix.sum(2, keepdim=True) + matrix[:, :, 2:] - 1], 2)
    grid = F.affine_grid(theta, [len(x), x.shape[1], side, side], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mapped(points: Tensor, matrix: Tensor) -> Tensor:
    """Points ``(N, K, 2)`` of chips in the coordinates of their pictures."""
    return points @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]
