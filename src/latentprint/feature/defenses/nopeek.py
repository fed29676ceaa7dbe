"""NoPeek (Vepakomma et al. 2020, arXiv 2008.09161): less distance correlation of image and features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from latentprint.feature.defense import FeatureDefense, Step
from latentprint.feature.protection import NoPeekConfig
from latentprint.losses.dependence import distance_correlation


class NoPeek(FeatureDefense):
    """Adds ``weight * dCor(x, z)`` of the images as they are and the features before any noise."""

    def __init__(self, config: NoPeekConfig) -> None:
        super().__init__()
        self.weight = config.weight

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        if self.weight == 0 or len(step.images) < 2:
            return None
        dependence = distance_correlation(step.images, step.features.float())
        return self.weight * dependence, {"dcor": dependence.detach()}
