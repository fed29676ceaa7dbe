"""From features back to images, and the critic that tells such images from photos.

The published decoder of split inference (Xia et al. 2025, arXiv:2503.00383, table 9: ``res_normN8C64``, 711,539
parameters from 8 channels of 8x8 to 32x32), for feature maps and images of any size, for flat features, and a linear
map as its fast baseline.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from latentprint.errors import UserError

Architecture = Literal["published", "linear"]

#: Flat features are first laid out as a map of at least so many pixels a side.
SMALLEST_MAP = 4
#: A deviation below this share of the largest feature is rounding.
CONSTANT = 1e-6
#: A critic halves images three times and normalises what is left over space, of which one pixel would become 0.
CRITIC_MIN_SIZE = 9


class PreActivation(nn.Module):
    """BN-ReLU-conv twice (He et al. 2016, arXiv:1603.05027); where widths differ, a 1x1 shortcut with BN."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, outer, 3, 1, 1),
            nn.BatchNorm2d(outer), nn.ReLU(), nn.Conv2d(outer, outer, 3, 1, 1),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Standardise(nn.Module):
    """Features ``(B, *F)`` to mean 0 and deviation 1, in each channel of a map or each entry of anything else.

    A defence that only shrinks features hides nothing; without this it would slow the decoder's training down. The
    constants are measured once and are no parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        kept = (1, shape[0], 1, 1) if len(shape) == 3 else (1, *shape)
        self.register_buffer("mean", torch.zeros(kept))
        self.register_buffer("std", torch.ones(kept))

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Take mean and deviation from ``(B, *F)``; what is constant keeps its scale."""
        axes = (0, 2, 3) if features.ndim == 4 else (0,)
        std, mean = torch.std_mean(features, axes, correction=0, keepdim=True)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > CONSTANT * features.abs().amax(), std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


class Decoder(nn.Module):
    """Features ``(B, *F)`` to images ``(B, 3, H, W)``: in (0, 1), or unbounded for the linear architecture.

    Args:
        shape: F, ``(C, h, w)`` of a map or ``(D,)``; the linear architecture takes any.
        size: H and W.
        blocks, width: residual blocks before the upsampling, and their channels (the paper's N and C).

    Raises:
        UserError: the published architecture cannot get from the features to the images.
    """

    def __init__(self, shape: tuple[int, ...], size: tuple[int, int], architecture: Architecture = "published", *,
                 blocks: int = 8, width: int = 64) -> None:
        super().__init__()
        self.standardise = Standardise(shape)
        self.body = nn.Sequential(*(_linear(shape, size) if architecture == "linear"
                                    else _published(shape, size, blocks, width)))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(self.standardise(features))


class Critic(nn.Module):
    """Images ``(B, 3, H, W)`` in [0, 1] to ``(B,)`` unbounded scores, the mean over patches.

    Three strided 5x5 convolutions with instance norm (batch norm would couple the samples, which the gradient penalty
    forbids) and a 4x4 one. Source: the critic of the published attack, 1,034,113 parameters.

    Raises:
        UserError: images below 9 pixels a side.
    """

    def __init__(self, size: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        if min(size) < CRITIC_MIN_SIZE:
            raise UserError(f"a critic needs images of at least {CRITIC_MIN_SIZE} pixels a side, got "
                            f"{size[0]}x{size[1]}")
        last = (min(4, -(-size[0] // 8)), min(4, -(-size[1] // 8)))
        layers: list[nn.Module] = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2)]
        for inner in (width, 2 * width):
            layers += [nn.Conv2d(inner, 2 * inner, 5, 2, 2), nn.InstanceNorm2d(2 * inner, affine=True),
                       nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, last))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((1, 2, 3))


def doublings(map_size: tuple[int, int], size: tuple[int, int]) -> int:
    """How often a map must double to become an image.

    Raises:
        UserError: the ratio is no power of two, or not the same for height and width.
    """
    (h, w), (height, width) = map_size, size
    times = (height // h).bit_length() - 1
    if height < h or h << times != height or w << times != width:
        raise UserError(f"a decoder cannot double features of {h}x{w} to images of {height}x{width}: expected the same "
                        "power of two for both sides; the architecture 'linear' takes any features")
    return times


def _linear(shape: tuple[int, ...], size: tuple[int, int]) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(prod(shape), 3 * prod(size)), nn.Unflatten(1, (3, *size))]


def _published(shape: tuple[int, ...], size: tuple[int, int], blocks: int, width: int) -> list[nn.Module]:
    match shape:
        case (channels, h, w):
            return _from_map(channels, doublings((h, w), size), blocks, width)
        case (features,):
            times = _halvings(size)
            small = (width, size[0] >> times, size[1] >> times)
            return [nn.Linear(features, prod(small)), nn.Unflatten(1, small), *_from_map(width, times, blocks, width)]
    raise UserError(f"a decoder takes feature maps (C, h, w) or flat features (D,), got features of shape {shape}; the "
                    "architecture 'linear' takes any")


def _from_map(channels: int, times: int, blocks: int, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = [PreActivation(channels, width), nn.ReLU()]
    # Two transposed convolutions in the paper; where fewer are needed, blocks take their place.
    for _ in range(blocks + max(0, 2 - times)):
        layers += [PreActivation(width, width), nn.ReLU()]
    for _ in range(times):
        layers += [nn.ConvTranspose2d(width, width, 3, 2, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
    return [*layers, PreActivation(width, 3), nn.Sigmoid()]


def _halvings(size: tuple[int, int]) -> int:
    """How often both sides can be halved without falling below ``SMALLEST_MAP``."""
    times = 0
    while all(side % 2 ** (times + 1) == 0 and side >> (times + 1) >= SMALLEST_MAP for side in size):
        times += 1
    return times
