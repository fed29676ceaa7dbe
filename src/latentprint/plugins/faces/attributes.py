"""Pose, expression and light of real faces, from the published networks of landmarks and of expression."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentprint.data.warp import mapped, resample, similarity
from latentprint.errors import UserError
from latentprint.models.assets import find_asset, load_asset
from latentprint.models.attributes import AttributeReader
from latentprint.models.framing import MOST_MOVED, MOST_RESIDUAL, POINTS, expected_points
from latentprint.plugins.faces import dlib
from latentprint.plugins.faces.build import Expression, Landmarks, resized
from latentprint.plugins.faces.geometry import expression_columns, light_columns, pose_columns, weak_perspective

#: The assets that it is made of.
PARTS = ("landmarks", "expression")
_FIVE = list(POINTS)


class FaceAttributes(AttributeReader):
    """x ``(B, 3, H, H)`` in [0, 1] -> ``(B, 10)``, in the order of ``ATTRIBUTE_NAMES``.

    The face is looked for in the picture, cut out upright, and its attributes are computed from the chip's landmarks,
    expression and luminance. No gradient flows through where the face was found, on which they hardly depend.
    """

    name = "landmark network"
    #: Side of the chip over that of dlib's: of those tried, where smiles are told best and places matter least.
    zoom = 1.2

    def __init__(self) -> None:
        super().__init__()
        self.landmarks, self.expression = Landmarks(), Expression()

    def depths(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the landmark network, of the whole picture, at three depths, coarse last."""
        maps, h = [], dlib.normalised(resized(x, self.landmarks.side))
        for block in self.landmarks.network.blocks:
            h = block(h)
            maps.append(h)
        return maps[1:]

    @torch.no_grad()
    def place(self, x: Tensor) -> Tensor:
        """``(B, 2, 3)`` from the chip's coordinates to the picture's; the whole picture where no face is found."""
        found, residual = similarity(self.landmarks(x)[:, _FIVE], expected_points(self.zoom))
        whole = found.new_tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        return torch.where((residual * self.zoom <= MOST_RESIDUAL)[:, None, None], found, whole)

    def read(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Attributes ``(B, 10)`` of the faces at a `place`, and their landmarks ``(B, 68, 2)`` in the picture."""
        chip = resample(x, place, self.landmarks.side)
        points, logits = self.landmarks(chip), self.expression.network(dlib.normalised(chip))
        pose = weak_perspective(points)
        turn = torch.atan2(place[:, 1, 0], place[:, 0, 0])
        columns = [pose_columns(pose, turn), expression_columns(points, pose, logits), light_columns(chip, points)]
        return torch.cat(columns, 1), mapped(points, place)

    def forward(self, x: Tensor) -> Tensor:
        return self.measure(x)[0]

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attributes ``(B, 10)`` and ``(B,)`` whether there is a face, see `latentprint.models.framing.Found`."""
        # Half precision has steps of a 256th where landmarks are: a unit of yaw is 20 of them.
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            place = self.place(x)
            columns, points = self.read(x, place)
            return columns, self._is_face(points.detach()[:, _FIVE], place)

    def _is_face(self, five: Tensor, place: Tensor) -> Tensor:
        chip, residual = similarity(five, expected_points())
        first = mapped(expected_points(self.zoom).to(five).expand(len(five), -1, -1), place)
        moved = (five - first).norm(dim=2).mean(1) / chip[:, :, 0].norm(dim=1).clamp_min(1e-9)
        return (residual <= MOST_RESIDUAL) & (moved <= MOST_MOVED)


def composed(folder: Path | None = None) -> FaceAttributes:
    """The network made of the assets `PARTS`, frozen.

    Args:
        folder: see `latentprint.models.assets.find_asset`.

    Raises:
        UserError: one is not there, or another kind of network.
    """
    network = FaceAttributes()
    try:
        records = {name: find_asset(name, folder)[1] for name in PARTS}
    except UserError as error:
        raise UserError(f"attributes of real faces are measured by networks of landmarks and of expression: {error}"
                        ) from None
    for name in PARTS:
        part = load_asset(name, folder)
        if type(part) is not type(getattr(network, name)):
            raise UserError(f"asset {name!r} is a {records[name]['kind']}, not the network that 'latentprint convert "
                            "faces' makes")
        setattr(network, name, part)
    return network.eval().requires_grad_(False)


def sources(folder: Path | None = None) -> dict[str, str]:
    """SHA-256 of the assets `PARTS`, for the record of what was made with them."""
    return {name: find_asset(name, folder)[1]["sha256"] for name in PARTS}


def build(record: Mapping[str, Any]) -> FaceAttributes:
    """The network that an asset's record describes."""
    return FaceAttributes()
