"""The IR and IR-SE networks of InsightFace_PyTorch (``model_ir_se50.pth``) and AdaFace, with their key names.

Deng et al. 2019 (arXiv 1801.07698), section 3.2: a unit is BN, 3x3 convolution, PReLU, 3x3 convolution with the stride,
BN, and in IR-SE a squeeze-and-excitation (Hu et al. 2018). AdaFace (Kim et al. 2022) puts another BN behind the first
convolution and leaves the last BN of the network without scale and shift.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

#: Units of each of the four stages, by the depth in the name.
UNITS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 101: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)


class SqueezeExcite(nn.Module):
    """Scales channels by what their means say."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Unit(nn.Module):
    """A residual unit; ``squeezed`` for IR-SE, ``double`` for AdaFace's further BN."""

    def __init__(self, inner: int, outer: int, stride: int, squeezed: bool, double: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inner != outer:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        between = [nn.BatchNorm2d(outer)] if double else []
        behind = [SqueezeExcite(outer)] if squeezed else []
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inner), nn.Conv2d(inner, outer, 3, 1, 1, bias=False), *between, nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), *behind)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR(nn.Module):
    """``(B, 3, 112, 112)`` in [-1, 1] to ``(B, 512)``, not normalised.

    Args:
        depth: 50, 100 (AdaFace calls it 101) or 152.
        widths: of the four stages, narrower in tests.
    """

    def __init__(self, depth: int, squeezed: bool, double: bool = False,
                 widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        first = widths[0]
        self.input_layer = nn.Sequential(nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first),
                                         nn.PReLU(first))
        self.body = nn.Sequential(*(Unit(inner, outer, stride, squeezed, double)
                                    for inner, outer, stride in _plan(UNITS[depth], widths)))
        self.output_layer = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.Dropout(0.4 if double else 0.6), nn.Flatten(),
                                          nn.Linear(widths[-1] * 7 * 7, 512), nn.BatchNorm1d(512, affine=not double))

    def forward(self, x: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(x)))


def _plan(units: tuple[int, ...], widths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    inner = widths[0]
    for count, outer in zip(units, widths, strict=True):
        for index in range(count):
            yield inner, outer, 1 if index else 2
            inner = outer
