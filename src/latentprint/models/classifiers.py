"""Three small face classifiers, as unlike each other as their size allows: victims and their evaluators.

A reconstruction that fools one architecture alone is an adversarial example; one that three agree on is a
face. All take images normalised to about [-1, 1], meant for crops of 48 x 48 pixels but of any size from 16
on, and offer ``features(x) -> (B, D)`` and ``forward(x) = head(features(x)) -> (B, n_classes)``. Channels are
multiples of 32, and weights and images are channels-last: several times faster on CPUs, bf16 above all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError

WIDTHS = (32, 64, 128, 256)


class Classifier(nn.Module, ABC):
    """Penultimate features, and a linear head on them."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(n_features, n_classes)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in about [-1, 1] to ``(B, n_features)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in about [-1, 1] to logits ``(B, n_classes)``."""
        return self.head(self.features(x))


class VGG(Classifier):
    """Plain stacks of 3x3 convolution, batch norm and ReLU with max-pooling between; a hidden linear layer.

    After Simonyan & Zisserman 2015 (arXiv:1409.1556), with batch norm.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(WIDTHS[-1], n_classes)
        stages, c_in = [], 3
        for width, depth in zip(WIDTHS, (1, 1, 2, 2), strict=True):
            convolutions = [_conv_bn_relu(c_in if i == 0 else width, width) for i in range(depth)]
            stages.append(nn.Sequential(*convolutions, nn.MaxPool2d(2)))
            c_in = width
        self.stages = nn.Sequential(*stages)
        self.hidden = _hidden(c_in, WIDTHS[-1], nn.ReLU())

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(self.stages(_channels_last(x)))


class ResNet(Classifier):
    """Pre-activation residual blocks with PReLU behind a space-to-depth stem; a linear map to the features.

    After He et al. 2016 (arXiv:1603.05027).
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(WIDTHS[-1], n_classes)
        self.stem = nn.Conv2d(12, WIDTHS[0], 3, padding=1, bias=False)
        blocks, c_in = [], WIDTHS[0]
        for width, depth in zip(WIDTHS, (1, 1, 2, 1), strict=True):
            for i in range(depth):
                blocks.append(_ResidualBlock(c_in, width, stride=2 if i == 0 and width != WIDTHS[0] else 1))
                c_in = width
        self.blocks = nn.Sequential(*blocks)
        self.final = nn.Sequential(nn.BatchNorm2d(c_in), nn.PReLU(c_in))
        self.hidden = _hidden(c_in, WIDTHS[-1], nn.Identity())

    def features(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(_even(x), 2)
        return self.hidden(self.final(self.blocks(self.stem(_channels_last(x)))))


class Mixer(Classifier):
    """Overlapping patches, then one resolution throughout: depthwise 5x5 mixes places, pointwise channels.

    After Trockman & Kolter 2022, ConvMixer (arXiv:2201.09792), with the overlapping stem of Xiao et al. 2021
    (arXiv:2106.14881): patches cut side by side learn too little from 32 photos of a person.
    """

    def __init__(self, n_classes: int, width: int = 128, depth: int = 3) -> None:
        super().__init__(WIDTHS[-1], n_classes)
        self.patches = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 4, stride=2, padding=1), nn.GELU(), nn.BatchNorm2d(WIDTHS[0]),
            nn.Conv2d(WIDTHS[0], width, 4, stride=2, padding=1), nn.GELU(), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.blocks = nn.Sequential(*(_MixerBlock(width) for _ in range(depth)))
        self.hidden = _hidden(width, WIDTHS[-1], nn.GELU())

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(self.blocks(self.patches(_channels_last(x))))


ARCHITECTURES: dict[str, Callable[[int], Classifier]] = {"vgg": VGG, "resnet": ResNet, "mixer": Mixer}


def build(name: str, n_classes: int) -> Classifier:
    """A freshly initialised classifier (torch's global generator decides the weights).

    Raises:
        UserError: unknown architecture, or fewer than 2 classes.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"unknown architecture '{name}': expected one of {', '.join(ARCHITECTURES)}")
    if n_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {n_classes}")
    model = ARCHITECTURES[name](n_classes)
    _initialise(model)
    return model.to(memory_format=torch.channels_last)


class _ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(c_in), nn.PReLU(c_in))
        self.branch = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.PReLU(c_out),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            pool = nn.AvgPool2d(stride, ceil_mode=True)
            self.shortcut = nn.Sequential(pool, nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        straight = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(activated)
        return straight + self.branch(activated)


class _MixerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x + self.places(x))


def _hidden(c_in: int, c_out: int, activation: nn.Module) -> nn.Sequential:
    """Maps to features. A 3x3 grid keeps where things are in the face, which an average over all of it forgets."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * c_in, c_out), nn.BatchNorm1d(c_out),
                         activation)


def _conv_bn_relu(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


def _initialise(model: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852) for convolutions; a small head, so that training starts at log C."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1 * module.in_features**-0.5)
            nn.init.zeros_(module.bias)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _even(x: Tensor) -> Tensor:
    """Height and width made even by repeating the last row and column."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
