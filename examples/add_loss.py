"""Add a loss: a function in a file of yours, named in the settings. Two kinds are shown.

    latentprint audit template --set attack.loss.pixel=examples/add_loss.py:charbonnier --out runs/charbonnier
    latentprint defend feature --out runs/decorrelated --set "defences=[{kind: noise}, {kind: custom,
      made_by: 'examples/add_loss.py:Decorrelated', options: {weight: 1}}]"

`charbonnier` replaces the pixel error of the template attack. `Decorrelated` is a defence of split inference that adds
a term to the victim's own loss; what it logs appears in metrics.jsonl, TensorBoard and the report's curves.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentprint.feature.defense import FeatureDefense, Step


def charbonnier(drawn: Tensor, photos: Tensor, floor: float = 1e-3) -> Tensor:
    """``(B,)`` mean of ``sqrt((x - y)^2 + floor^2)``, a smooth absolute error (Charbonnier et al. 1994)."""
    return ((drawn - photos).square() + floor**2).sqrt().flatten(1).mean(1)


class Decorrelated(FeatureDefense):
    """Mean squared correlation of what is sent with the image, each channel averaged over space.

    A loss must not loop over classes or samples and must not ask the device for a number: return tensors.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        if self.weight == 0 or len(step.images) < 2:
            return None
        image, sent = (self.standardised(x.flatten(2).mean(2) if x.ndim == 4 else x)
                       for x in (step.images, step.features.float()))
        loss = (image.T @ sent / len(sent)).square().mean()
        return self.weight * loss, {"correlation": loss.detach()}

    @staticmethod
    def standardised(x: Tensor) -> Tensor:
        """``(B, C)`` with mean 0 and deviation 1 over the batch."""
        return (x - x.mean(0)) / (x.std(0, correction=0) + torch.finfo(x.dtype).eps)
