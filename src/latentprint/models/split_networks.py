"""Networks made to be split: the VGG-11 and the ResNet-20 of the conditional-entropy paper, and their bottleneck.

After Xia et al. 2025, CEM (arXiv:2503.00383), and the code published with it. Layers are named and run one after the
other; the features that cross are the output of ``encode``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError

Bounded = Literal["sigmoid", "tanh", "none"]
#: The layer whose output crosses the cut, in both networks.
DEFAULT_CUT = "encode"

_BOUNDS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "none": nn.Identity}


class Bottleneck(nn.Module):
    """Few channels between two parts: ``encode`` ends the edge network, ``decode`` starts the cloud network.

    A 3x3 convolution each way for maps ``(B, C, H, W)``, a linear map for vectors and tokens ``(B, ..., C)``; no batch
    norm and no ReLU, so that what crosses is a linear map of the features behind the bound alone. Source: Li et al.
    2022, ResSFL (arXiv:2205.04007), as CEM uses it.

    Args:
        channels_in: C of the features.
        channels: that cross, at least 1.
        bounded: within which bounds: (0, 1) for ``sigmoid``, (-1, 1) for ``tanh``. Without one, training can scale
            features up until noise no longer matters.
        is_map: whether features are maps.

    Raises:
        UserError: channels below 1, or an unknown bound.
    """

    def __init__(self, channels_in: int, channels: int, bounded: Bounded = "sigmoid", *, is_map: bool = True) -> None:
        super().__init__()
        if channels < 1:
            raise UserError(f"bottleneck: expected at least 1 channel, got {channels}")
        if bounded not in _BOUNDS:
            raise UserError(f"bounded: expected one of {', '.join(get_args(Bounded))}, got {bounded!r}")
        self.encode = nn.Sequential(_linear(channels_in, channels, is_map), _BOUNDS[bounded]())
        self.decode = _linear(channels, channels_in, is_map)
        _xavier(self.encode)

    def forward(self, features: Tensor) -> Tensor:
        return self.decode(self.encode(features))


def vgg11(n_classes: int, *, image_size: int = 32, bottleneck: int | None = 8,
          bounded: Bounded = "sigmoid") -> nn.Sequential:
    """VGG-11 with batch norm, cut after its second pooling layer: features ``(8, H / 4, W / 4)``.

    Args:
        n_classes: at least 2.
        image_size: height and width in pixels, 32 to 95; the classifier's first layer depends on it.
        bottleneck: channels that cross the cut. None: the network as it would be without a defence, with neither
            bottleneck nor bound; ``encode`` then passes on the 128 channels.
        bounded: see `Bottleneck`.

    Raises:
        UserError: a number out of range.
    """
    _check(n_classes, 32 <= image_size < 96, f"image_size: VGG-11 takes 32 to 95 pixels, got {image_size}")
    side = image_size // 32
    edge = OrderedDict(block1=_conv_block(3, 64), pool1=nn.MaxPool2d(2), block2=_conv_block(64, 128),
                       pool2=nn.MaxPool2d(2))
    cloud = OrderedDict(
        block3=_conv_block(128, 256), block4=_conv_block(256, 256), pool3=nn.MaxPool2d(2),
        block5=_conv_block(256, 512), block6=_conv_block(512, 512), pool4=nn.MaxPool2d(2),
        block7=_conv_block(512, 512), block8=_conv_block(512, 512), pool5=nn.MaxPool2d(2),
        flatten=nn.Flatten(), drop1=nn.Dropout(0.5), hidden1=nn.Linear(512 * side**2, 512), relu1=nn.ReLU(),
        drop2=nn.Dropout(0.5), hidden2=nn.Linear(512, 512), relu2=nn.ReLU(), head=nn.Linear(512, n_classes),
    )  # fmt: skip
    return _joined(edge, cloud, 128, bottleneck, bounded)


def resnet20(n_classes: int, *, bottleneck: int | None = 8, bounded: Bounded = "sigmoid") -> nn.Sequential:
    """ResNet-20 for images of 64 pixels, cut after its fourth block: features ``(8, H / 4, W / 4)``.

    Three stages of three blocks, the first of each halving the side; widths 32, 64, 128; shortcuts without parameters.
    Images of 16 pixels or more. Arguments and errors as for `vgg11`.
    """
    _check(n_classes, True, "")
    widths = (16, 32, 32, 32, 64, 64, 64, 128, 128, 128)
    blocks = OrderedDict((f"block{i}", _BasicBlock(widths[i - 1], widths[i])) for i in range(1, 10))
    names = list(blocks)
    stem = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU())
    edge = OrderedDict[str, nn.Module](stem=stem, **{name: blocks[name] for name in names[:4]})
    cloud = OrderedDict[str, nn.Module]({name: blocks[name] for name in names[4:]}, pool=nn.AdaptiveAvgPool2d(1),
                                        flatten=nn.Flatten(), head=nn.Linear(128, n_classes))
    return _joined(edge, cloud, 64, bottleneck, bounded)


class _BasicBlock(nn.Module):
    """He et al. 2016 (arXiv:1512.03385), option A: a shortcut drops every other pixel and adds silent channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride, self.new = (1, 0) if c_in == c_out else (2, c_out - c_in)
        self.branch = nn.Sequential(nn.Conv2d(c_in, c_out, 3, self.stride, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(),
                                    nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        straight = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return F.relu(straight + self.branch(x))


def _joined(edge: OrderedDict[str, nn.Module], cloud: OrderedDict[str, nn.Module], channels_in: int,
            bottleneck: int | None, bounded: Bounded) -> nn.Sequential:
    pair = None if bottleneck is None else Bottleneck(channels_in, bottleneck, bounded)
    for layer in edge.values():
        _xavier(layer)
    encode, decode = (pair.encode, pair.decode) if pair else (nn.Identity(), nn.Identity())
    return nn.Sequential(OrderedDict(**edge, encode=encode, decode=decode, **cloud))


def _xavier(layers: nn.Module) -> None:
    """The published start of an edge network: Xavier-uniform weights, biases 0."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _linear(c_in: int, c_out: int, is_map: bool) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 3, padding=1) if is_map else nn.Linear(c_in, c_out)


def _conv_block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())


def _check(n_classes: int, fits: bool, fault: str) -> None:
    if n_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {n_classes}")
    if not fits:
        raise UserError(fault)
