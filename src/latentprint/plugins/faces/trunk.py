"""face-api's networks of landmarks and of expression, which share a trunk."""

from __future__ import annotations

from torch import Tensor, nn

from latentprint.plugins.faces.layers import Separable, conv_of, same_conv
from latentprint.plugins.faces.tensors import Weights, conv_filter, depthwise_filter

SIDE = 112
WIDTHS = (32, 64, 128, 256)
LANDMARKS = 68
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


class DenseBlock(nn.Module):
    """A convolution with stride 2, then three separable ones whose sums run along."""

    def __init__(self, inner: int, outer: int, first: bool) -> None:
        super().__init__()
        self.conv0 = same_conv(inner, outer, 3, 2) if first else Separable(inner, outer, 2)
        self.conv1, self.conv2, self.conv3 = (Separable(outer, outer) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        start = self.conv0(x).relu()
        total = start + self.conv1(start)
        total = total + self.conv2(total.relu())
        return (total + self.conv3(total.relu())).relu()


class FaceApiNetwork(nn.Module):
    """``(B, 3, 112, 112)``, normalised as for dlib's, to ``(B, n)``."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(inner, outer, i == 0) for i, (inner, outer)
                                      in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False))))
        self.fc = nn.Linear(WIDTHS[-1], n)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x).mean((2, 3)))


def from_face_api(tensors: Weights) -> dict[str, Tensor]:
    """The state dict, from face-api's tensors."""
    network = FaceApiNetwork(len(tensors["fc/bias"]))
    state = {"fc.weight": tensors["fc/weights"].T.contiguous(), "fc.bias": tensors["fc/bias"]}
    for i, block in enumerate(network.blocks):
        for name, module in block.named_children():
            source, own = f"dense{i}/{name}", f"blocks.{i}.{name}"
            if isinstance(module, Separable):
                inner = ".1" if isinstance(module.depthwise, nn.Sequential) else ""
                state |= {f"{own}.depthwise{inner}.weight": depthwise_filter(tensors[f"{source}/depthwise_filter"]),
                          f"{own}.pointwise.weight": conv_filter(tensors[f"{source}/pointwise_filter"]),
                          f"{own}.pointwise.bias": tensors[f"{source}/bias"]}
            else:
                assert conv_of(module) is module[1]  # type: ignore[index]
                state |= {f"{own}.1.weight": conv_filter(tensors[f"{source}/filters"]),
                          f"{own}.1.bias": tensors[f"{source}/bias"]}
    return state
