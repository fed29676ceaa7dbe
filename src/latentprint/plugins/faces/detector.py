"""BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), as Human ships it: faces in a picture of 256 x 256."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.plugins.faces.layers import SamePad, conv_of, same_conv
from latentprint.plugins.faces.tensors import Weights, conv_filter, depthwise_filter

SIDE = 256
#: (channels out, stride) of each block; the first scores come after all but the last, which has no shortcut.
BLOCKS = ((24, 1),) * 7 + ((24, 2),) + ((24, 1),) * 7 + ((48, 2),) + ((48, 1),) * 7 + ((96, 2),) + ((96, 1),) * 7
#: (cells a side, anchors a cell) of the fine and the coarse grid.
GRIDS = ((16, 2), (8, 6))
#: What an anchor says: centre, size, then six points, x and y each, in pixels of 256.
NUMBERS = 16


class BlazeBlock(nn.Module):
    """Separable convolution beside a shortcut, which is pooled and gets silent channels where it must."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.more = outer - inner
        self.depthwise = same_conv(inner, inner, 3, stride, groups=inner, bias=False)
        self.pointwise = nn.Conv2d(inner, outer, 1)
        self.pool = nn.Identity() if stride == 1 else nn.Sequential(SamePad(2, 2), nn.MaxPool2d(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.pointwise(self.depthwise(x)) + F.pad(self.pool(x), (0, 0, 0, 0, 0, self.more))).relu()


class BlazeFace(nn.Module):
    """``(B, 3, 256, 256)`` in [-1, 1] to logits ``(B, 896)`` and numbers ``(B, 896, 16)`` relative to `anchors`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = same_conv(3, 24, 5, 2)
        inner = (24, *(outer for outer, _ in BLOCKS))
        self.blocks = nn.Sequential(*(BlazeBlock(before, outer, stride) for before, (outer, stride)
                                      in zip(inner, BLOCKS, strict=False)))
        self.coarse = nn.ModuleList([same_conv(96, 96, 3, 2, groups=96, bias=False), nn.Conv2d(96, 96, 1)])
        self.scores = nn.ModuleList([nn.Conv2d(96, count, 1) for _, count in GRIDS])
        self.numbers = nn.ModuleList([nn.Conv2d(96, count * NUMBERS, 1) for _, count in GRIDS])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.blocks(self.stem(x).relu())
        maps = (fine, self.coarse[1](self.coarse[0](fine)).relu())
        scores = [head(each).permute(0, 2, 3, 1).flatten(1) for head, each in zip(self.scores, maps, strict=True)]
        numbers = [head(each).permute(0, 2, 3, 1).reshape(len(x), -1, NUMBERS)
                   for head, each in zip(self.numbers, maps, strict=True)]
        return torch.cat(scores, 1), torch.cat(numbers, 1)


@cache
def anchors() -> Tensor:
    """Centres ``(896, 2)``, x and y in pixels of 256."""
    found = []
    for cells, count in GRIDS:
        line = (torch.arange(cells) + 0.5) * (SIDE / cells)
        y, x = torch.meshgrid(line, line, indexing="ij")
        found.append(torch.stack([x, y], -1).view(-1, 1, 2).expand(-1, count, 2).reshape(-1, 2))
    return torch.cat(found)


def from_human(tensors: Weights) -> dict[str, Tensor]:
    """The state dict, from the tensors of Human's graph, which names them by number."""
    def of(number: int) -> Tensor:
        return tensors[f"unknown_{number}"]

    network = BlazeFace()
    state = {"stem.1.weight": conv_filter(tensors["unknown"]), "stem.1.bias": of(0)}
    for i, block in enumerate(network.blocks):
        assert isinstance(block, BlazeBlock)
        inner = ".1" if conv_of(block.depthwise) is not block.depthwise else ""
        state |= {f"blocks.{i}.depthwise{inner}.weight": depthwise_filter(of(4 * i + 1)),
                  f"blocks.{i}.pointwise.weight": conv_filter(of(4 * i + 3)),
                  f"blocks.{i}.pointwise.bias": of(4 * i + 4)}
    last = 4 * len(BLOCKS)
    state |= {"coarse.0.1.weight": depthwise_filter(of(last + 1)), "coarse.1.weight": conv_filter(of(last + 3)),
              "coarse.1.bias": of(last + 4)}
    for own, first in (("numbers.1", 129), ("numbers.0", 131), ("scores.1", 133), ("scores.0", 135)):
        state |= {f"{own}.weight": conv_filter(of(first)), f"{own}.bias": of(first + 1)}
    return state
