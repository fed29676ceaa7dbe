"""A package of plug-ins for latentprint: after `pip install .` every setting may name them, as `plugin:NAME`.

    latentprint audit feature --set attacks='[decoder, plugin:nearest]' \
      --set "defences=[{kind: noise}, {kind: custom, made_by: plugin:blur, options: {side: 3}}]"
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latentprint as lp
from latentprint.feature.attacks.base import Harness
from latentprint.surrogates.base import Measured
from latentprint.surrogates.groups import Classmates


@lp.register("nearest")
class Nearest(lp.FeatureAttack):
    """The known image whose features are nearest to what was sent: an attack that reconstructs nothing."""

    name = "nearest"

    def __init__(self, harness: Harness) -> None:
        """An attack is given what all attacks share; this one needs nothing of it."""

    @torch.no_grad()
    def fit(self, victim: lp.SplitVictim, known: lp.ImageSet) -> None:
        self.images = known.floats()
        self.features = torch.cat([victim.release(part.to(victim.device)).cpu() for part in self.images.split(64)])

    def run(self, victim: lp.SplitVictim, sent: Tensor) -> Tensor:
        return self.images[torch.cdist(sent.mean(1).flatten(1), self.features.flatten(1)).argmin(1)]


@lp.register("blur")
class Blur(lp.FeatureDefence):
    """Feature maps are averaged over squares of `side` places before they are sent."""

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.side = side

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        return F.avg_pool2d(features, self.side, 1, self.side // 2, count_include_pad=False)


@lp.register("spread")
class Spread(lp.Surrogate):
    """The variance of features about their class's mean in the batch, for the defence `cem`."""

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        cost = (z - mates.share @ z).square().mean(1)
        return Measured(cost.mean(), cost.detach(), {})


@lp.register("pooled")
def pooled(dim: int) -> nn.Module:
    """A recogniser from a photo's colours: the setting `recogniser.model` calls it with the embedding's length."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, dim))


@lp.register("stripes")
def stripes(classes: int = 4, images: int = 8, seed: int = 0, size: int = 32) -> tuple[Tensor, Tensor]:
    """A data source: images in [0, 1] and labels, a frequency of stripes for each class."""
    labels = torch.arange(classes).repeat_interleave(images)
    phase = torch.rand(len(labels), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    place = torch.arange(size).view(1, 1, 1, size) / size
    waves = 0.5 + 0.5 * torch.sin(2 * torch.pi * ((labels.view(-1, 1, 1, 1) + 1) * place + phase))
    return waves.expand(-1, 3, size, -1).contiguous(), labels
