"""How unlike two pictures look to a network: LPIPS where its weights are at hand, else its formula on another network.

The two are different numbers and have different names. LPIPS is torchmetrics' (its linear layers come with the
library); the network under it was trained on ImageNet and has to be fetched from its owner once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from latentprint.errors import UserError
from latentprint.losses.perceptual import feature_distance
from latentprint.metrics.image import mse
from latentprint.models.assets import file_hash, load_asset
from latentprint.models.attributes import AttributeReader
from latentprint.models.checkpoints import load_state

Backbone = Literal["alex", "vgg", "squeeze"]
#: torchvision's files, each with the start of its SHA-256 in the name.
FILES: dict[str, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth",
                         "squeeze": "squeezenet1_1-b8a52dc0.pth"}
OWNER = "https://download.pytorch.org/models/"


class PerceptualMetric(nn.Module, ABC):
    """A perceptual distance, and what to call it.

    Args:
        name: to print beside the number.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @abstractmethod
    def distance(self, images: Tensor, references: Tensor) -> Tensor:
        """``(B,)`` of two batches ``(B, 3, H, W)`` in [0, 1]."""

    @torch.no_grad()
    def forward(self, images: Tensor, references: Tensor, batch: int = 64) -> Tensor:
        """``(N,)`` distances of images ``(N, 3, H, W)`` in [0, 1], at least 0, on the CPU.

        Raises:
            ValueError: shapes differ, or values are outside [0, 1].
        """
        mse(images, references)  # refuses what is no pair of images in [0, 1]
        device = next(self.parameters()).device
        pairs = zip(images.split(batch), references.split(batch), strict=True)
        return torch.cat([self.distance(a.to(device), b.to(device)).cpu() for a, b in pairs])


class LPIPS(PerceptualMetric):
    """Zhang et al. 2018 (arXiv:1801.03924), version 0.1.

    Args:
        weights: torchvision's file of the classifier (`FILES`), as published or with the same names as safetensors.
        backbone: which classifier.

    Raises:
        UserError: the file is missing or holds other tensors; where its owner publishes it.
    """

    def __init__(self, weights: Path, backbone: Backbone = "alex") -> None:
        source = f"{OWNER}{FILES[backbone]}"
        if not weights.is_file():
            raise UserError(f"lpips: no file {weights}; expected {FILES[backbone]} from {source}")
        own = file_hash(weights).startswith(FILES[backbone].rpartition("-")[2].removesuffix(".pth"))
        super().__init__(f"LPIPS ({backbone})" if own else f"LPIPS formula ({backbone}, weights of {weights.name})")
        with torch.random.fork_rng(devices=[]):  # the library draws weights, which are replaced
            self.network = _LPIPS(net=backbone, pnet_rand=True)
        state = load_state(weights)
        names = {name: re.sub(r"^slice(s\.)?\d+", "features", name) for name in self.network.net.state_dict()}
        if missing := [old for old in names.values() if old not in state]:
            raise UserError(f"lpips: {weights} holds no '{missing[0]}': expected {FILES[backbone]} from {source}")
        try:
            self.network.net.load_state_dict({name: state[old] for name, old in names.items()})
        except RuntimeError:
            raise UserError(f"lpips: {weights} holds other shapes: expected {FILES[backbone]} from {source}") from None

    def distance(self, images: Tensor, references: Tensor) -> Tensor:
        return self.network(images, references, normalize=True).flatten()


class EmbeddedDistance(PerceptualMetric):
    """The formula of LPIPS on the asset ``attributes``, at 64 pixels: see `latentprint.losses.perceptual`."""

    def __init__(self, network: AttributeReader) -> None:
        super().__init__(f"perceptual distance ({network.name})")
        self.network = network

    def distance(self, images: Tensor, references: Tensor) -> Tensor:
        return feature_distance(self._depths(images), self._depths(references))

    def _depths(self, x: Tensor) -> list[Tensor]:
        if x.shape[-2:] != (64, 64):
            x = F.interpolate(x, (64, 64), mode="bilinear", antialias=True)
        return self.network.depths(x)


def perceptual_metric(weights: Path | None, backbone: Backbone = "alex",
                      assets: Path | None = None) -> PerceptualMetric:
    """LPIPS when its weights are given, else the embedded distance; frozen, in eval mode, on the CPU.

    Args:
        weights, backbone: see `LPIPS`.
        assets: folder of networks made by ``latentprint pretrain``; the packaged ones by default.

    Raises:
        UserError: a file is missing or wrong.
    """
    metric: PerceptualMetric
    if weights is not None:
        metric = LPIPS(weights, backbone)
    else:
        network = load_asset("attributes", assets)
        assert isinstance(network, AttributeReader)  # what the builder of that kind makes
        metric = EmbeddedDistance(network)
    return metric.eval().requires_grad_(False)
