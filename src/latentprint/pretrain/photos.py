"""What the attribute network learns on photos: the attributes that the published networks measure in them.

Every photo is measured once, with its mirror image. A batch shows each in another framing and another state of colour,
sharpness and grain: what that does to the attributes is known, so nothing is measured again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.augment import moved, random_moves
from latentprint.data.base import ImageSet
from latentprint.data.pixels import resize_square
from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.engine.loop import say
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.models.attributes import SIDE, mirrored
from latentprint.plugins.faces.attributes import FaceAttributes
from latentprint.plugins.faces.geometry import POSE_UNIT
from latentprint.progress import tracked

#: Photos that the metrics are taken on, at most.
MOST_UNSEEN = 400
#: Share of the photos in which a face must be found.
LEAST_FOUND = 0.5
#: Bounds of the views: radians, shares of the picture, factors.
TURN, SHIFT, ZOOM, LIGHT, TINT, GRAIN = 0.2, 0.06, 0.12, 0.3, 0.08, 0.04
#: Shares of the views that are half as sharp, and without colour.
BLURRED, GREY = 0.3, 0.15
_ROLL = ATTRIBUTE_NAMES.index("roll")


@dataclass(frozen=True)
class MeasuredPhotos:
    """Photos that show a face, with its attributes: ``images`` ``(N, 3, S, S)`` uint8, ``attributes`` ``(N, 10)``."""

    images: Tensor
    attributes: Tensor


def measure_photos(run: RunDir, name: str, network: FaceAttributes, data: ImageSet, most: int) -> MeasuredPhotos:
    """Photos that show a face, of at most ``most`` that are evenly spread over the set, measured once in a run.

    Args:
        name: of the checkpoint that keeps what was measured.

    Raises:
        UserError: too few of them do.
    """
    chosen = torch.linspace(0, len(data) - 1, min(len(data), most)).long()
    if (found := run.load(name)) is None:
        attributes, seen = measured(network, data.images[chosen])
        found = {"attributes": attributes, "seen": seen}
        run.save(name, found)
    attributes, seen = found["attributes"], found["seen"]
    there = f"a face is found in {int(seen.sum())} of {len(seen)} photos of {data.source}"
    say(f"data: {there}")
    if not seen.any() or seen.float().mean() < LEAST_FOUND:
        raise UserError(f"data: {there}, at least {LEAST_FOUND:.0%} are needed: give upright photos that the face "
                        "fills")
    images = data.images[chosen[seen]]
    return MeasuredPhotos(resize_square(images, SIDE) if data.size > SIDE else images, attributes[seen])


@torch.no_grad()
def measured(network: FaceAttributes, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Attributes ``(N, 10)`` of photos, the mean of what is measured in them and in their mirror images; and ``(N,)``
    whether a face is found in both."""
    device = next(network.parameters()).device
    columns, faces = [], []
    for part in tracked(images.split(batch), "measuring attributes"):
        x = part.to(device).float() / 255
        (first, seen), (second, also) = network.measure(x), network.measure(x.flip(3))
        columns.append(((first + mirrored(second)) / 2).cpu())
        faces.append((seen & also).cpu())
    return torch.cat(columns), torch.cat(faces)


def views(photos: MeasuredPhotos, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Views of some photos, ``(B, 3, S, S)`` in [0, 1], and their attributes ``(B, 10)``.

    Turning a photo changes its roll and mirroring it the sign of some columns; its framing, brightness, tint,
    sharpness and grain change none.
    """
    n = len(index)
    moves = random_moves(n, rng, TURN, SHIFT, ZOOM, LIGHT, mirror=True)
    x = moved(photos.images[index].float() / 255, moves)
    x = x * (1 + TINT * (2 * torch.rand(n, 3, 1, 1, generator=rng) - 1))
    soft = F.interpolate(F.avg_pool2d(x, 2), x.shape[-2:], mode="bilinear", align_corners=False)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < BLURRED, soft, x)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < GREY, x.mean(1, keepdim=True), x)
    x = x + GRAIN * torch.rand(n, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
    truth = photos.attributes[index].clone()
    truth[:, _ROLL] -= moves.turn * (180 / math.pi / POSE_UNIT[2])
    return x.clamp(0, 1), torch.where(moves.side[:, None] < 0, mirrored(truth), truth)
