"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573) as in InsightFace_PyTorch, with its key names."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution and BN, with ``activated`` a PReLU."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1,
                 activated: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outer)
        if activated:
            self.prelu = nn.PReLU(outer)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.prelu(x) if self.activated else x


class DepthWise(nn.Module):
    """Widen, convolve each channel, narrow; ``residual`` beside the input."""

    def __init__(self, inner: int, outer: int, groups: int, stride: int, residual: bool = False) -> None:
        super().__init__()
        self.conv = ConvBlock(inner, groups)
        self.conv_dw = ConvBlock(groups, groups, 3, stride, 1, groups)
        self.project = ConvBlock(groups, outer, activated=False)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):
    """Several of them in a row."""

    def __init__(self, channels: int, count: int, groups: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, groups, 1, residual=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MobileFaceNet(nn.Module):
    """``(B, 3, 112, 112)`` in [-1, 1] to ``(B, 512)``, not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.conv2_dw = ConvBlock(64, 64, 3, 1, 1, 64)
        self.conv_23, self.conv_3 = DepthWise(64, 64, 128, 2), Residual(64, 4, 128)
        self.conv_34, self.conv_4 = DepthWise(64, 128, 256, 2), Residual(128, 6, 256)
        self.conv_45, self.conv_5 = DepthWise(128, 128, 512, 2), Residual(128, 2, 256)
        self.conv_6_sep = ConvBlock(128, 512)
        self.conv_6_dw = ConvBlock(512, 512, 7, groups=512, activated=False)
        self.linear, self.bn = nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(x))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        return self.bn(self.linear(self.conv_6_dw(self.conv_6_sep(x)).flatten(1)))
