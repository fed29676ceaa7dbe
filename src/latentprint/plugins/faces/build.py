"""The published networks as assets: recognisers behind their framing, landmarks and expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.models.framing import Framing, Given, expected_points
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.plugins.faces import dlib, faceres, trunk
from latentprint.plugins.faces.detector import BlazeFace


class Published(NamedTuple):
    """How a recogniser is used: its network, what it is given, and where that has the face.

    ``zoom``: the side of its chip over that of dlib's (faceres saw more of the head).
    """

    network: Callable[[], nn.Module]
    prepare: Callable[[Tensor], Tensor]
    side: int
    dim: int
    zoom: float


RECOGNISERS = {
    "dlib": Published(dlib.DlibNetwork, dlib.normalised, dlib.SIDE, dlib.DIM, 1.0),
    "faceres": Published(faceres.FaceresNetwork, faceres.as_trained, faceres.SIDE, faceres.DIM, 1.2),
}


class FaceRecogniser(EmbeddingNetwork):
    """A published recogniser behind a `Framing`, by default the whole picture.

    Attributes:
        expected: ``(5, 2)`` where its input has the five points. zoom, side: see `Published`.
    """

    def __init__(self, kind: Published) -> None:
        super().__init__()
        self.network, self.prepare = kind.network(), kind.prepare
        self.dim, self.side, self.zoom = kind.dim, kind.side, kind.zoom
        self.expected = expected_points(kind.zoom)
        self.framing: Framing = Given(kind.side)

    def raw(self, x: Tensor) -> Tensor:
        return self.network(self.prepare(self.framing(x)))


class Landmarks(nn.Module):
    """x ``(B, 3, H, H)`` in [0, 1] -> 68 landmarks in the order of iBUG, ``(B, 68, 2)`` in fractions of the picture."""

    side = trunk.SIDE

    def __init__(self) -> None:
        super().__init__()
        self.network = trunk.FaceApiNetwork(2 * trunk.LANDMARKS)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(dlib.normalised(resized(x, self.side))).view(-1, trunk.LANDMARKS, 2)


class Expression(nn.Module):
    """x ``(B, 3, H, H)`` in [0, 1] -> probabilities of `EXPRESSIONS`, ``(B, 7)``."""

    side = trunk.SIDE

    def __init__(self) -> None:
        super().__init__()
        self.network = trunk.FaceApiNetwork(len(trunk.EXPRESSIONS))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(dlib.normalised(resized(x, self.side))).softmax(1)


def resized(x: Tensor, side: int) -> Tensor:
    """Pictures at a network's size; pixels lie half a pixel from the edge, as in torch and OpenCV."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)


def build(record: Mapping[str, Any]) -> nn.Module:
    """The network that an asset's record describes."""
    match record["kind"]:
        case "face-recogniser":
            return FaceRecogniser(RECOGNISERS[record["architecture"]])
        case "face-landmarks":
            return Landmarks()
        case "face-expression":
            return Expression()
        case _:
            return BlazeFace()
