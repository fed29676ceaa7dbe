"""Building blocks that more than one network uses. Widths are multiples of 32: bf16 convolutions like that."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualPReLU(nn.Module):
    """BN-conv-BN-PReLU-conv-BN with a shortcut, as in ArcFace's improved residual unit (Deng et al. 2019, sec. 3.2)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inner), nn.Conv2d(inner, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer), nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class DepthwiseUnit(nn.Module):
    """Depthwise 5x5, then a pointwise bottleneck with GELU: a ConvNeXt unit (Liu et al. 2022) with batch norm."""

    def __init__(self, width: int, expand: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 5, 1, 2, groups=width, bias=False), nn.BatchNorm2d(width),
            nn.Conv2d(width, expand * width, 1), nn.GELU(), nn.Conv2d(expand * width, width, 1),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class NormResidual(nn.Module):
    """GroupNorm-SiLU-conv twice with a shortcut: the unit of diffusion autoencoders. Batch-independent."""

    def __init__(self, inner: int, outer: int, groups: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(groups, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, 1, 1),
            nn.GroupNorm(groups, outer), nn.SiLU(), nn.Conv2d(outer, outer, 3, 1, 1),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def crop_box(x: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Cut ``(top, left, height, width)``, given as shares of the picture, out of ``(B, C, H, W)``."""
    height, width = x.shape[-2:]
    top, left = round(box[0] * height), round(box[1] * width)
    return x[..., top : top + round(box[2] * height), left : left + round(box[3] * width)]
