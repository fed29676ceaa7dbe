"""Pose, expression and light of a face from its 68 landmarks and its luminance: closed forms, differentiable.

Signs are those of the procedural faces (`latentprint.data.renderer`), as one looks at the picture: yaw turns the nose
to the right, pitch turns it down, roll turns the face clockwise; light from the right and from below is positive. So
are the units of pose; those of expression and light are round numbers such that most photos lie within [-1, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: A unit of yaw, pitch and roll, in degrees: the renderer's.
POSE_UNIT = (28.0, 16.0, 14.0)
#: Where no face is, any angle may come out: none is above so many units.
MOST_POSE = 4.0
#: Points of a face that no expression moves, in millimetres from the root of the nose: x to the right of the picture,
#: y down, z to the camera. Round numbers after the usual means of facial measurements (eyes 90 mm from outer to outer
#: and 33 mm from inner to inner corner, nose 45 mm long and 21 mm high); the right half is the mirrored left one.
RIGID = {
    36: (-45.0, 1.0, -26.0), 39: (-16.5, 2.0, -13.0), 42: (16.5, 2.0, -13.0), 45: (45.0, 1.0, -26.0),
    27: (0.0, 0.0, 0.0), 28: (0.0, 12.0, 7.0), 29: (0.0, 24.5, 14.0), 30: (0.0, 37.0, 21.0),
    31: (-13.5, 43.0, 2.0), 32: (-7.0, 44.5, 6.0), 33: (0.0, 45.0, 8.0), 34: (7.0, 44.5, 6.0), 35: (13.5, 43.0, 2.0),
}  # fmt: skip
#: The landmark at the mirrored place.
MIRRORED = (*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38,
            37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65)

#: Zero and unit of what is measured of an expression: the width of the mouth, the gap between the lips, the opening of
#: the eyes and the brows' height over them in millimetres of the mean face; log odds of happiness.
MOUTH_WIDTH, LIP_GAP, EYE_OPENING, BROW_HEIGHT = (51.0, 15.0), (6.0, 6.0), (7.0, 1.5), (20.0, 5.0)
HAPPY = (0.0, 10.0)

#: Patches of bare skin, each a weighted mean of landmarks; those of the left half, and those in the middle.
CHEEK, UNDER_EYE, JAW = ({41: 1 / 3, 48: 1 / 3, 2: 1 / 3}, {41: 0.5, 40: 0.25, 31: 0.25}, {48: 0.45, 5: 0.55})
BRIDGE, LIP, CHIN = {28: 1.0}, {33: 0.5, 51: 0.5}, {57: 0.5, 8: 0.5}
#: Zero and unit of the differences of log luminance that say whence the light comes, and of their spread.
LIGHT_X, LIGHT_Y, LIGHT_CONTRAST = (0.0, 0.4), (-0.1, 0.25), (0.18, 0.14)
#: Of Rec. 601, on pixel values.
LUMINANCE = (0.299, 0.587, 0.114)
#: Side and step of the windows over which luminance is averaged, in pixels of the chip.
WINDOW, STEP = 8, 4
#: Added to luminance: black has a logarithm, and noise in the dark no weight.
DARK = 0.05


class Pose(NamedTuple):
    """``angles`` ``(B, 3)``: yaw, pitch, roll in radians. ``scale`` ``(B,)``: lengths in the picture a millimetre."""

    angles: Tensor
    scale: Tensor


def weak_perspective(points: Tensor) -> Pose:
    """The pose of the mean face whose picture, by parallel rays and scaled, comes nearest to landmarks ``(B, 68, 2)``.

    The least-squares map from the mean face's coordinates to the picture is linear in the landmarks. Of a rotated face
    it is, with roll undone, ``scale`` times ``[[cos y, -sin y sin p, sin y cos p], [0, cos p, sin p]]``, from which the
    angles are read.
    """
    index, shape = list(RIGID), torch.tensor(list(RIGID.values()), dtype=torch.float64)
    inverse = torch.linalg.pinv(shape - shape.mean(0)).to(points)  # (3, K)
    chosen = points[:, index]
    right, down, front = (inverse @ (chosen - chosen.mean(1, keepdim=True))).unbind(1)
    roll = torch.atan2(right[:, 1], right[:, 0])
    right, down, front = (turned(axis, -roll) for axis in (right, down, front))
    pitch = torch.atan2(front[:, 1], down[:, 1])
    yaw = torch.atan2(front[:, 0], right[:, 0] * pitch.cos())
    scale = (right[:, 0].square() + down[:, 0].square() + front[:, 0].square()).sqrt()
    return Pose(torch.stack([yaw, pitch, roll], 1), scale)


def turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """``(..., 2)`` turned clockwise by an angle in radians that broadcasts over the rest."""
    x, y = vectors.unbind(-1)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)


def pose_columns(pose: Pose, turn: Tensor) -> Tensor:
    """Yaw, pitch and roll in units of `POSE_UNIT`, those beyond `MOST_POSE` bent to it: ``(B, 3)``.

    Args:
        turn: ``(B,)`` by how much the picture had been turned, radians.
    """
    degrees = (pose.angles + F.pad(turn[:, None], (2, 0))) * (180 / math.pi)
    return (degrees / degrees.new_tensor(POSE_UNIT) / MOST_POSE).tanh() * MOST_POSE


def expression_columns(points: Tensor, pose: Pose, logits: Tensor) -> Tensor:
    """Smile, openness of mouth and eyes, height of the brows: ``(B, 4)`` in (-1, 1).

    Args:
        points: ``(B, 68, 2)``. pose: theirs. logits: ``(B, 7)`` of the expression network, happiness second.
    """
    upright = turned(points, -pose.angles[:, 2:]) / pose.scale[:, None, None]  # millimetres of the mean face
    x, y = upright.unbind(-1)
    wide = x[:, 54] - x[:, 48]
    gap = (y[:, 65:68] - y[:, 61:64].flip(1)).mean(1)
    opening = (y[:, [40, 41, 46, 47]] - y[:, [38, 37, 44, 43]]).mean(1)
    brows = y[:, [36, 39, 42, 45]].mean(1) - y[:, 17:27].mean(1)
    rest = torch.cat([logits[:, :1], logits[:, 2:]], 1)
    happy = logits[:, 1] - rest.logsumexp(1)
    smile = _units(happy, HAPPY) + 0.6 * _units(wide, MOUTH_WIDTH)
    others = [_units(gap, LIP_GAP), _units(opening, EYE_OPENING), _units(brows, BROW_HEIGHT)]
    return torch.stack([smile, *others], 1).tanh()


def light_columns(chip: Tensor, points: Tensor) -> Tensor:
    """Whence the light comes, to the right and down, and how uneven it is: ``(B, 3)`` in (-1, 1).

    Args:
        chip: ``(B, 3, S, S)`` in [0, 1], an upright face. points: ``(B, 68, 2)``, its landmarks.
    """
    patches = [*_both(CHEEK), *_both(UNDER_EYE), *_both(JAW), BRIDGE, LIP, CHIN]
    weights = points.new_zeros(len(patches), points.shape[1])
    for row, patch in enumerate(patches):
        weights[row, list(patch)] = points.new_tensor(list(patch.values()))
    seen = _log_luminance(chip, weights @ points)
    left, right, (bridge, lip, chin) = seen[:, 0:6:2], seen[:, 1:6:2], seen[:, 6:].unbind(1)
    sideways = (right - left).mean(1)
    above = (seen[:, 2:4].sum(1) + bridge) / 3
    below = (seen[:, 4:6].sum(1) + chin + lip) / 4
    spread = (seen[:, [0, 1, 2, 3, 4, 5, 6, 8]].var(1, correction=0) + 1e-6).sqrt()
    return torch.stack([_units(sideways, LIGHT_X), _units(below - above, LIGHT_Y), _units(spread, LIGHT_CONTRAST)],
                       1).tanh()


def _both(patch: dict[int, float]) -> tuple[dict[int, float], dict[int, float]]:
    return patch, {MIRRORED[index]: weight for index, weight in patch.items()}


def _log_luminance(chip: Tensor, places: Tensor) -> Tensor:
    """``(B, P)`` at places ``(B, P, 2)`` in fractions of the chip."""
    grey = (chip * chip.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    smooth = F.avg_pool2d(grey, WINDOW, STEP)
    # Window i of the smoothed picture lies about pixel STEP i + WINDOW / 2 of the chip.
    cells = (places * chip.shape[-1] - WINDOW / 2) / STEP + 0.5
    grid = (cells / smooth.shape[-1] * 2 - 1)[:, :, None]
    seen = F.grid_sample(smooth, grid, padding_mode="border", align_corners=False).flatten(1)
    return (seen.clamp_min(0) + DARK).log()


def _units(value: Tensor, scale: tuple[float, float]) -> Tensor:
    zero, unit = scale
    return (value - zero) / unit
