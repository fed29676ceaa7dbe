"""IResNet as in InsightFace's ``arcface_torch`` (ArcFace, CosFace, Partial FC releases), with its key names."""

from __future__ import annotations

from torch import Tensor, nn

#: Units of the four stages, by the depth in the name.
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)


class Unit(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN, beside the input."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inner), nn.Conv2d(inner, outer, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(outer), nn.PReLU(outer)
        self.conv2, self.bn3 = nn.Conv2d(outer, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """``(B, 3, 112, 112)`` in [-1, 1] to ``(B, 512)``, not normalised."""

    def __init__(self, depth: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        inner = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(3, inner, 3, 1, 1, bias=False), nn.BatchNorm2d(inner)
        self.prelu = nn.PReLU(inner)
        for number, (count, outer) in enumerate(zip(UNITS[depth], widths, strict=True), 1):
            units = [Unit(inner, outer, 2), *(Unit(outer, outer, 1) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*units))
            inner = outer
        self.bn2, self.dropout = nn.BatchNorm2d(inner), nn.Dropout(0.0)
        self.fc, self.features = nn.Linear(inner * 7 * 7, 512), nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))
