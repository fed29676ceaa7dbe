"""PATROL-like pruning (Ding et al. 2024, arXiv 2307.10981): a larger edge network that loses channels late in training.

The published code puts a layer of 16 channels in front and prunes 5% of the channels after three quarters of the
training, by Taylor scores of the sum of outputs on one noise image, and by accident stops training all that it pruned.
Here scores are those of the training loss, and pruned networks go on learning: masks leave the parameters in place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from latentprint.feature.defense import FeatureDefense
from latentprint.feature.protection import PatrolConfig


class Patrol(FeatureDefense):
    """Prunes once, after the epoch that ends beyond its share of the training. Use it with the adversarial defence.

    Args:
        epochs: of the whole training.
    """

    pruned: Tensor

    def __init__(self, config: PatrolConfig, epochs: int) -> None:
        super().__init__()
        self.config, self.epochs = config, epochs
        self.register_buffer("pruned", torch.zeros((), dtype=torch.bool))

    def edge(self, edge: nn.Module, example: Tensor) -> nn.Module:
        wide, channels = self.config.channels, example.shape[1]
        front = nn.Sequential(nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(),
                              nn.Conv2d(wide, channels, 1))
        for layer in self._wide(edge):
            prune.identity(layer, "weight")  # masks of ones, so that checkpoints before and after have the same names
        return nn.Sequential(front, edge)

    def after_epoch(self, epoch: int, edge: nn.Module) -> None:
        if self.config.pruned == 0 or (epoch + 1) / self.epochs < self.config.at or bool(self.pruned):
            return
        for layer in self._wide(edge):
            parameter = dict(layer.named_parameters())["weight_orig"]
            if parameter.grad is not None:
                scores = (parameter * parameter.grad).detach()
                scores = scores.flatten(1).sum(1).abs().view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
                prune.ln_structured(layer, "weight", self.config.pruned, n=1, dim=0,
                                    importance_scores=scores.contiguous())
        self.pruned.fill_(True)

    def _wide(self, edge: nn.Module) -> list[nn.Module]:
        return [m for m in edge.modules() if isinstance(m, nn.Conv2d) and m.out_channels > self.config.exempt]
