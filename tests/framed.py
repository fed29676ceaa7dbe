"""Drawn faces whose landmarks are known, and a landmark network that finds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.warp import mapped, similarity
from latentprint.models.framing import CHIP, POINTS, Framing, Given
from latentprint.models.recognisers import EmbeddingNetwork

#: Where a chip has its 68 landmarks: the five that framing goes by in place, all others at its mouth.
LAYOUT = torch.tensor([0.482, 0.683]).repeat(68, 1)
LAYOUT[list(POINTS)] = torch.tensor(CHIP)
EYES = torch.stack([LAYOUT[[36, 39]].mean(0), LAYOUT[[42, 45]].mean(0)])


def chip_at(x: float, y: float, side: float, turn: float = 0.0) -> Tensor:
    """``(2, 3)`` from a chip's coordinates to the picture's: its centre, its side and its turn in radians."""
    angle = torch.tensor(turn)
    linear = side * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return torch.cat([linear, torch.tensor([[x], [y]]) - linear @ torch.tensor([[0.5], [0.5]])], 1)


def drawn_faces(chips: Tensor, size: int = 64, width: float = 0.03) -> Tensor:
    """Pictures ``(N, 3, size, size)`` in [0, 1]: of each face, framed so, a red dot and a blue one for the eyes."""
    eyes = mapped(EYES.expand(len(chips), -1, -1), chips)
    line = (torch.arange(size) + 0.5) / size
    place = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    dots = torch.exp(-(place - eyes[:, :, None, None]).square().sum(-1) / (2 * width**2))
    return torch.stack([dots[:, 0], torch.zeros_like(dots[:, 0]), dots[:, 1]], 1)


def drawn_set(*places: tuple[float, float, float], size: int = 64, source: str = "drawn") -> ImageSet:
    """A set of drawn faces, each a person, framed by (x, y, side) each."""
    images = as_uint8(drawn_faces(torch.stack([chip_at(*each) for each in places]), size))
    return ImageSet(images, torch.arange(len(places)), tuple(f"{source} {i}" for i in range(len(places))), source)


def as_uint8(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)


class Dots(nn.Module):
    """Landmarks ``(B, 68, 2)`` of `drawn_faces`; of pictures without dots, all in one point."""

    side = 64

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        weight = x[:, [0, 2]].clamp_min(0)
        weight = torch.where(weight > 0.2 * weight.amax((2, 3), keepdim=True), weight, torch.zeros_like(weight))
        total = weight.sum((2, 3))
        line = (torch.arange(x.shape[-1]).to(x) + 0.5) / x.shape[-1]
        eyes = torch.stack([(weight.sum(2) * line).sum(2), (weight.sum(3) * line).sum(2)], 2)
        eyes = eyes / total[:, :, None].clamp_min(1e-6)
        points = mapped(LAYOUT.to(x).expand(len(x), -1, -1), similarity(eyes, EYES)[0])
        there = ((total > 0) & (total < 0.2 * x.shape[-1] ** 2)).all(1) & (x[:, 1].amax((1, 2)) < 0.5)
        return torch.where(there[:, None, None], points, torch.full_like(points, 0.5)) * self.weight


class Whole(nn.Module):
    """Landmarks as if every picture were a chip: a face everywhere, that fills what is shown."""

    side = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return LAYOUT.to(x).expand(len(x), -1, -1) * self.weight


class Tiny(EmbeddingNetwork):
    """A recogniser that expects the face at a place: a linear map of its chip."""

    side, zoom = 16, 1.2

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.framing: Framing = Given(self.side)
        self.linear = nn.Linear(3 * 16 * 16, 512, bias=False)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))

    def raw(self, x: Tensor) -> Tensor:
        return self.linear(self.framing(x).flatten(1) - 0.5)
