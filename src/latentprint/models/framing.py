"""Where a face lies in a picture, and the crop that a recogniser was trained on.

A recogniser expects five points of the face at fixed places of its input; photos of a set have them somewhere. A
`Framing` takes pictures to that input. It is differentiable, and one and the same for photos and for reconstructions.

=========  ====================================================================================================
``given``  pictures are framed as the network expects already: they are resized
``auto``   one similarity (rotation, scale, shift) for the whole set, found on some of its photos
``each``   a similarity for each picture from its own landmarks, through which no gradient flows
=========  ====================================================================================================

Coordinates are fractions of the picture, x to the right and y down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError

FramingName = Literal["auto", "each", "given"]
#: Of 68 landmarks: outer and inner corner of the eye on the left, inner and outer of the right one, base of the nose.
POINTS = (36, 39, 42, 45, 33)
#: Where dlib's recogniser expects them, as face-api's landmark network reports them: means of 204 chips that dlib cut.
CHIP = ((0.233, 0.294), (0.370, 0.303), (0.594, 0.305), (0.732, 0.302), (0.482, 0.560))
#: A root mean squared distance of the fitted points from their places above which there is no face, or another pose
#: than the landmark network knows; on good photos 0.008 in the median, at most 0.023 in 99 of 100.
MOST_RESIDUAL = 0.04
#: Below this side landmarks miss by as much as recognisers tolerate.
LEAST_SIDE = 32
#: Photos that ``auto`` looks at, and the share of them that must show a face.
LOOKED_AT, LEAST_FOUND = 200, 0.5


def expected_points(zoom: float = 1.0) -> Tensor:
    """Where a chip has the five points, ``(5, 2)``; ``zoom``: its side over that of dlib's chip, about one centre."""
    return (torch.tensor(CHIP) - 0.5) / zoom + 0.5


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

    Args:
        matrix: ``(B or 1, 2, 3)`` from the chip's coordinates to the picture's.
    """
    matrix = matrix.to(x).expand(len(x), 2, 3)
    step = float(matrix[:, :, 0].norm(dim=1).mean()) * x.shape[-1] / side  # pixels of the picture to one of the chip
    if step > 1:
        smaller = max(1, round(x.shape[-1] / step))
        x = F.interpolate(x, (smaller, smaller), mode="bilinear", antialias=True, align_corners=False)
    # affine_grid counts from -1 to 1: u' = 2 u - 1.
    theta = torch.cat([matrix[:, :, :2], matrix.sum(2, keepdim=True) + matrix[:, :, 2:] - 1], 2)
    grid = F.affine_grid(theta, [len(x), x.shape[1], side, side], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mapped(points: Tensor, matrix: Tensor) -> Tensor:
    """Points ``(N, K, 2)`` of chips in the coordinates of their pictures."""
    return points @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]


@torch.no_grad()
def find_points(landmarks: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """All landmarks of pictures ``(B, 3, H, H)`` in [0, 1]: ``(B, 68, 2)``, looked for twice, the second time in the
    chip that the first gives; and the residual ``(B,)`` of `similarity` on five of them.

    Args:
        landmarks: pictures to ``(B, 68, 2)``; it resizes them itself.
    """
    chosen, goal = list(POINTS), expected_points().to(x)
    rough = similarity(landmarks(x)[:, chosen], goal)[0]
    found = mapped(landmarks(resample(x, rough, getattr(landmarks, "side", x.shape[-1]))), rough)
    return found, similarity(found[:, chosen], goal)[1]


class Framing(nn.Module, ABC):
    """Pictures ``(B, 3, H, W)`` in [0, 1] to chips ``(B, 3, side, side)``."""

    name: FramingName

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Differentiable by the pictures."""

    def extra_repr(self) -> str:
        return f"side={self.side}"


class Given(Framing):
    """The whole picture."""

    name = "given"

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] == (self.side, self.side):
            return x
        return F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)


class OneForAll(Framing):
    """The same similarity for every picture.

    Args:
        matrix: ``(2, 3)`` from the chip's coordinates to the picture's.
    """

    name = "auto"
    matrix: Tensor

    def __init__(self, side: int, matrix: Tensor) -> None:
        super().__init__(side)
        self.register_buffer("matrix", matrix.detach().clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.matrix[None], self.side)


class Each(Framing):
    """Every picture by its own landmarks.

    Args:
        landmarks: see `find_points`. expected: ``(5, 2)``.
    """

    name = "each"
    expected: Tensor

    def __init__(self, side: int, expected: Tensor, landmarks: nn.Module) -> None:
        super().__init__(side)
        self.register_buffer("expected", expected.clone(), persistent=False)
        self.landmarks = landmarks

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < LEAST_SIDE:
            raise UserError(f"framing: each needs pictures of at least {LEAST_SIDE} pixels a side, got {x.shape[-1]}; "
                            "set framing: auto")
        points, _ = find_points(self.landmarks, x.detach())
        return resample(x, similarity(points[:, list(POINTS)], self.expected)[0], self.side)


@dataclass(frozen=True)
class Position:
    """Where a set has its faces.

    Attributes:
        points: ``(68, 2)`` mean landmarks. residual: of the five in the chip's units. found: share of the photos
            looked at that show a face. spread: mean distance of a photo's five points from the mean ones.
    """

    points: Tensor
    residual: float
    found: float
    spread: float

    def matrix(self, zoom: float = 1.0) -> Tensor:
        """``(2, 3)`` from a chip of this zoom to the picture."""
        return similarity(self.points[None, list(POINTS)], expected_points(zoom))[0][0]


@torch.no_grad()
def locate(landmarks: nn.Module, images: Tensor, what: str) -> Position:
    """Where a set's photos have the face: mean landmarks over `LOOKED_AT` of them, evenly spread.

    Args:
        images: ``(N, 3, H, H)`` uint8. what: names the set in messages.

    Raises:
        UserError: too few show a face, or their mean is none.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).long()]
    device = next(landmarks.parameters()).device
    parts = [find_points(landmarks, part.to(device).float() / 255) for part in chosen.split(50)]
    points, residuals = torch.cat([each[0] for each in parts]).cpu(), torch.cat([each[1] for each in parts]).cpu()
    seen = residuals <= MOST_RESIDUAL
    share = float(seen.float().mean())
    if share < LEAST_FOUND:
        raise UserError(f"framing: faces are found in {share:.0%} of {len(chosen)} photos of {what}, at least "
                        f"{LEAST_FOUND:.0%} are needed: give upright photos that the face fills, or set framing: given "
                        "where they are cut as the recogniser expects")
    mean = points[seen].mean(0)
    five = list(POINTS)
    residual = float(similarity(mean[None, five], expected_points())[1])
    if residual > MOST_RESIDUAL:
        raise UserError(f"framing: the mean face of {what} is none (residual {residual:.3f}, at most {MOST_RESIDUAL}); "
                        "its photos are cut in different ways: set framing: each")
    spread = float((points[seen][:, five] - mean[five]).norm(dim=2).mean())
    return Position(mean, residual, share, spread)
