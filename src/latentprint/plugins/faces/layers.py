"""What TensorFlow's layers do that torch's do not."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SamePad(nn.Module):
    """TensorFlow's SAME padding for a window of ``kernel`` pixels and this stride: the smaller half goes first."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._of(n) for n in x.shape[-2:])
        return F.pad(x, (left, right, top, bottom)) if max(top, bottom, left, right) else x

    def _of(self, n: int) -> tuple[int, int]:
        total = max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0)
        return total // 2, total - total // 2


def same_conv(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Module:
    """A convolution with SAME padding."""
    if stride == 1:
        return nn.Conv2d(inner, outer, kernel, 1, kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(SamePad(kernel, stride), nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=bias))


def conv_of(module: nn.Module) -> nn.Conv2d:
    """The convolution in what `same_conv` made."""
    found = module[1] if isinstance(module, nn.Sequential) else module
    assert isinstance(found, nn.Conv2d)
    return found


class Separable(nn.Module):
    """Depthwise 3x3, then pointwise with a bias; no activation."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = same_conv(inner, inner, 3, stride, groups=inner, bias=False)
        self.pointwise = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
