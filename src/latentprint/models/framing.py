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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentprint.data.pixels import as_floats
from latentprint.data.warp import mapped, resample, similarity
from latentprint.errors import UserError

FramingName = Literal["auto", "each", "given"]
FramingSetting = Annotated[FramingName | None, Field(description=(
    "what a recogniser is given of an image: auto: one crop for all, by where the sets have the face; each: a crop by "
    "its own landmarks; given: the whole; null: auto for recognisers of real faces (dlib, faceres), which alone have a "
    "framing"))]
#: Of 68 landmarks: outer and inner corner of the eye on the left, inner and outer of the right one, base of the nose.
POINTS = (36, 39, 42, 45, 33)
#: Where dlib's recogniser expects them, as face-api's landmark network reports them: means of 204 chips that dlib cut.
CHIP = ((0.233, 0.294), (0.370, 0.303), (0.594, 0.305), (0.732, 0.302), (0.482, 0.560))
#: A root mean squared distance of the fitted points from their places above which there is no face, or another pose
#: than the landmark network knows; on good photos 0.008 in the median, at most 0.023 in 99 of 100.
MOST_RESIDUAL = 0.04
#: A mean distance of the points between two looks above which there is none either: on good photos 0.01 in the median,
#: at most 0.085 in 99 of 100. A quarter of noise pictures pass the residual; of noise, blurs and CIFAR-10 4 to 9% pass
#: both.
MOST_MOVED = 0.1
#: Below this side landmarks miss by as much as recognisers tolerate.
LEAST_SIDE = 32
#: Photos that ``auto`` looks at, the share of them that must show a face, and the share that must at a first look.
LOOKED_AT, LEAST_FOUND, LEAST_AT_FIRST = 200, 0.5, 0.1
#: Where a set has its faces is known, the first look is at so many chips' sides about it: landmarks then move half as
#: far between two looks as from the whole picture.
START_ZOOM = 1.2


def expected_points(zoom: float = 1.0) -> Tensor:
    """Where a chip has the five points, ``(5, 2)``; ``zoom``: its side over that of dlib's chip, about one centre."""
    return (torch.tensor(CHIP) - 0.5) / zoom + 0.5


class Found(NamedTuple):
    """What the landmark network says of B pictures.

    Attributes:
        points: ``(B, 68, 2)``. residual: ``(B,)`` of `similarity` on five of them. moved: ``(B,)`` mean distance of
            these five between the first look and the second. Both in units of the chip's side.
    """

    points: Tensor
    residual: Tensor
    moved: Tensor

    @property
    def seen(self) -> Tensor:
        """``(B,)`` whether there is a face: its points lie as in a face, and both looks found them in one place."""
        return (self.residual <= MOST_RESIDUAL) & (self.moved <= MOST_MOVED)

    @property
    def five(self) -> Tensor:
        """``(B, 5, 2)`` those that framing goes by."""
        return self.points[:, list(POINTS)]


@torch.no_grad()
def look(landmarks: nn.Module, x: Tensor, start: Tensor | None = None) -> Found:
    """Find all landmarks of pictures ``(B, 3, H, H)`` in [0, 1], looked for twice, the second time in the chip that the
    first gives.

    Args:
        landmarks: pictures to ``(B, 68, 2)``; it resizes them itself, to its attribute ``side`` where it has one.
        start: ``(2, 3)`` or ``(B, 2, 3)`` chips to look at first, see `resample`; None: the whole pictures.
    """
    side, five = int(getattr(landmarks, "side", x.shape[-1])), list(POINTS)
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        goal = expected_points().to(x)
        if start is None:
            first = landmarks(x)
        else:
            start = start.to(x).expand(len(x), 2, 3)
            first = mapped(landmarks(resample(x, start, side)), start)
        rough = similarity(first[:, five], goal)[0]
        second = mapped(landmarks(resample(x, rough, side)), rough)
        matrix, residual = similarity(second[:, five], goal)
    chip = matrix[:, :, 0].norm(dim=1).clamp_min(1e-9)
    return Found(second, residual, (second[:, five] - first[:, five]).norm(dim=2).mean(1) / chip)


class Framing(nn.Module, ABC):
    """Pictures ``(B, 3, H, H)`` in [0, 1] to chips ``(B, 3, side, side)``."""

    name: FramingName

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    @abstractmethod
    def matrices(self, x: Tensor) -> Tensor:
        """``(B or 1, 2, 3)`` from the chips' coordinates to the pictures'; without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Differentiable by the pictures."""
        return resample(x, self.matrices(x), self.side)

    def extra_repr(self) -> str:
        return f"side={self.side}"


class Given(Framing):
    """The whole picture."""

    name = "given"

    def matrices(self, x: Tensor) -> Tensor:
        return torch.eye(2, 3, device=x.device)[None]

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

    def matrices(self, x: Tensor) -> Tensor:
        return self.matrix[None]


@dataclass(frozen=True)
class Position:
    """Where a set has its faces.

    Attributes:
        points: ``(68, 2)`` mean landmarks. residual: of the five, see `similarity`. spread: mean distance of a photo's
            five points from the mean ones, in units of the chip's side. n: photos looked at. found: share of them
            that show a face.
    """

    points: Tensor
    residual: float
    spread: float
    n: int
    found: float

    @property
    def five(self) -> Tensor:
        """``(5, 2)`` those that framing goes by."""
        return self.points[list(POINTS)]

    @property
    def side(self) -> float:
        """The side of dlib's chip in the picture."""
        return float(self.matrix()[:, 0].norm())

    def matrix(self, zoom: float = 1.0) -> Tensor:
        """``(2, 3)`` from a chip of this zoom to the picture."""
        return similarity(self.five[None], expected_points(zoom))[0][0]


class Each(Framing):
    """Every picture by its own landmarks.

    Args:
        landmarks: see `look`. It moves with the framing and is no part of its weights, so that a recogniser has the
            same weights however it is framed.
        position: where the set has its faces: pictures are looked at there first, and those in which no face is found
            are framed by it.
        zoom: of the chip, see `expected_points`.
    """

    name = "each"
    expected: Tensor
    start: Tensor
    otherwise: Tensor
    landmarks: nn.Module

    def __init__(self, side: int, landmarks: nn.Module, position: Position, zoom: float = 1.0) -> None:
        super().__init__(side)
        for name, value in (("expected", expected_points(zoom)), ("start", position.matrix(START_ZOOM)),
                            ("otherwise", position.matrix(zoom))):
            self.register_buffer(name, value, persistent=False)
        object.__setattr__(self, "landmarks", landmarks)

    def matrices(self, x: Tensor) -> Tensor:
        if x.shape[-1] < LEAST_SIDE:
            raise UserError(f"framing: each needs pictures of at least {LEAST_SIDE} pixels a side, got {x.shape[-1]}; "
                            "set framing: auto")
        found = look(self.landmarks, x.detach(), self.start)
        own = similarity(found.five, self.expected)[0]
        return torch.where(found.seen[:, None, None], own, self.otherwise)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Each:
        self.landmarks._apply(fn)
        super()._apply(fn, recurse)
        return self


@torch.no_grad()
def locate(landmarks: nn.Module, images: Tensor, what: str) -> Position:
    """Where a set's photos have the face: mean landmarks over `LOOKED_AT` of them, evenly spread.

    A few that are found in the whole pictures say where to look; all are then looked at there.

    Args:
        images: ``(N, 3, H, H)`` uint8. what: names the set in messages.

    Raises:
        UserError: too few show a face, or the mean of the faces is none.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).long()]
    position = _position(look_at_all(landmarks, chosen))
    if position.found >= LEAST_AT_FIRST:
        if position.residual > MOST_RESIDUAL:
            raise UserError(f"framing: the mean face of {what} is none (residual {position.residual:.2f}, at most "
                            f"{MOST_RESIDUAL}): its photos are turned or cut in different ways; align them with "
                            "'latentprint align'")
        position = position_of(landmarks, chosen, position)
    if position.found < LEAST_FOUND:
        raise UserError(f"framing: faces are found in {position.found:.0%} of {len(chosen)} photos of {what}, at least "
                        f"{LEAST_FOUND:.0%} are needed: give upright photos that the face fills ('latentprint align' "
                        "cuts them so), or set framing: given where they are cut as the recogniser expects")
    return position


def position_of(landmarks: nn.Module, images: Tensor, near: Position) -> Position:
    """Where pictures ``(N, 3, H, H)``, bytes or in [0, 1], have the face, looked for ``near`` a place in all of them.

    Where none has one, `found` is 0 and the rest means nothing.
    """
    return _position(look_at_all(landmarks, images, near.matrix(START_ZOOM)))


def mean_position(several: Sequence[Position]) -> Position:
    """That of several sets, all alike, whatever their sizes; `spread` is the largest."""
    mean = torch.stack([each.points for each in several]).mean(0)
    residual = float(similarity(mean[None, list(POINTS)], expected_points())[1])
    n = sum(each.n for each in several)
    return Position(mean, residual, max(each.spread for each in several), n,
                    sum(each.found * each.n for each in several) / n)


def _position(found: Found) -> Position:
    seen = found.seen
    if not bool(seen.any()):
        return Position(found.points.mean(0), 1.0, 1.0, len(seen), 0.0)
    mean = found.points[seen].mean(0)
    matrix, residual = similarity(mean[None, list(POINTS)], expected_points())
    apart = (found.five[seen] - mean[list(POINTS)]).norm(dim=2).mean()
    return Position(mean, float(residual), float(apart / matrix[0, :, 0].norm()), len(seen),
                    float(seen.float().mean()))


def look_at_all(landmarks: nn.Module, images: Tensor, start: Tensor | None = None, batch: int = 50) -> Found:
    """`look` at many pictures ``(N, 3, H, H)``, bytes or in [0, 1], in batches; on the CPU.

    Args:
        start: ``(2, 3)`` for all of them.
    """
    device = next(landmarks.parameters(), torch.empty(0)).device
    parts = [look(landmarks, as_floats(part).to(device), start) for part in images.split(batch)]
    return Found(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
