"""Where a photo has its face: BlazeFace for a first guess, then the landmark network twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from latentprint.data.warp import mapped, resample, similarity
from latentprint.models.assets import load_asset
from latentprint.models.framing import look
from latentprint.plugins.faces.detector import SIDE, anchors

#: Of a square padded by its edge: how many times its side the detector sees, for it misses faces that fill a picture.
VIEWS = (1.0, 1.5, 2.2)
#: A score below which there is no face; that of 99 of 100 faces is above 0.77.
LEAST_SCORE = 0.5
#: Photos are looked at with at most so many pixels a side.
MOST = 1024
#: Where dlib's chip has what BlazeFace finds: eyes, nose and mouth.
ROUGH = torch.tensor([[0.303, 0.297], [0.663, 0.297], [0.482, 0.50], [0.4825, 0.683]])
#: Of 68 landmarks, those whose means are eyes, tip of the nose and corners of the mouth.
FIVE = ((36, 39), (42, 45), (30,), (48,), (54,))


class FaceFinder:
    """A photo ``(H, W, 3)`` uint8 to the five points of its clearest face in pixels, ``(5, 2)``; None: no face.

    Args:
        detector: BlazeFace. landmarks: see `look`.
    """

    def __init__(self, detector: nn.Module, landmarks: nn.Module) -> None:
        self.detector, self.landmarks = detector, landmarks

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        square, side = squared(pixels)
        rough, score = self.guess(square)
        if score < LEAST_SCORE:
            return None
        found = look(self.landmarks, square, rough)
        if not bool(found.seen):
            return None
        five = torch.stack([found.points[0, list(indices)].mean(0) for indices in FIVE])
        return (five * side).numpy().astype(np.float32)

    def guess(self, square: Tensor) -> tuple[Tensor, float]:
        """dlib's chip ``(1, 2, 3)`` about the likeliest face of a square picture ``(1, 3, S, S)``, and its score."""
        views = torch.tensor([[[view, 0, 0.5 - view / 2], [0, view, 0.5 - view / 2]] for view in VIEWS])
        logits, numbers = self.detector(resample(square.expand(len(VIEWS), -1, -1, -1), views, SIDE) * 2 - 1)
        best = int(logits.argmax())
        view, anchor = divmod(best, logits.shape[1])
        points = (numbers[view, anchor, 4:12].view(1, 4, 2) + anchors()[anchor]) / SIDE
        score = float(logits.flatten()[best].sigmoid())
        return similarity(mapped(points, views[view : view + 1]), ROUGH)[0], score


def squared(pixels: NDArray[np.uint8]) -> tuple[Tensor, int]:
    """A photo in [0, 1] with its right or lower edge repeated to a square ``(1, 3, S, S)``, S at most `MOST`; and the
    square's side in the photo's pixels."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    height, width = x.shape[-2:]
    side = max(height, width)
    if side > MOST:
        shrunk = [max(1, round(length * MOST / side)) for length in (height, width)]
        x = F.interpolate(x, shrunk, mode="bilinear", antialias=True, align_corners=False)
    end = max(x.shape[-2:])
    return F.pad(x, (0, end - x.shape[-1], 0, end - x.shape[-2]), mode="replicate"), side


def face_finder(assets: Path | None) -> FaceFinder:
    """The published networks, see `latentprint convert faces`.

    Raises:
        UserError: the assets ``detector`` or ``landmarks`` are not there.
    """
    return FaceFinder(load_asset("detector", assets), load_asset("landmarks", assets))
