"""From reconstructions to numbers: every attack on the same images, by the same metrics.

The headline is the share of the pixels' variance that came back, ``1 - MSE / MSE of the mean image``: 0 for an
adversary who only knows the mean of the images it holds, 1 for the images themselves. Which attack is the best is
decided on one half of the images; every number is of the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.feature.scores import Best, Metric, best_attack, score
from latentprint.metrics.reconstruction import variance_recovered
from latentprint.stats import bootstrap_by_identity, rate_interval

HEADLINE = "variance_recovered"
FLOOR, CEILING, BEST = "floor", "ceiling", "attack"


@dataclass(frozen=True)
class Judged:
    """What was attacked and how it is counted.

    Attributes:
        attacked: the images under attack.
        mean: ``(3, H, W)`` in [0, 1], mean of the images that the adversary holds.
        by_person: resample people instead of images.
        resamples, seed: of the bootstrap.
    """

    attacked: ImageSet
    mean: Tensor
    by_person: bool
    resamples: int
    seed: int

    def units(self, index: Tensor) -> NDArray[np.int64]:
        """Of each image of ``index`` the unit that is resampled."""
        return (self.attacked.labels[index] if self.by_person else index).numpy()


def compared(judged: Judged, drawn: Mapping[str, Tensor], more: Mapping[str, Metric]) -> tuple[Best, dict[str, Any]]:
    """The best attack, and each arm's metrics with intervals on the images that did not choose it.

    Args:
        drawn: ``(N, 3, H, W)`` in [0, 1] of each attack.
        more: metrics beside MSE, PSNR and SSIM.
    """
    references = judged.attacked.floats()
    best = best_attack(drawn, references, judged.mean, seed=judged.seed)
    kept = best.reported_on
    flat = judged.mean.expand_as(references)
    pictures = {FLOOR: flat, **drawn, CEILING: references}
    units = judged.units(kept)
    arms = {name: _arm(judged, images[kept], references[kept], more, units) for name, images in pictures.items()}
    return best, {**arms, BEST: arms[best.name]}


def _arm(judged: Judged, images: Tensor, references: Tensor, more: Mapping[str, Metric],
         units: NDArray[np.int64]) -> dict[str, Any]:
    recovered = variance_recovered(images, references, judged.mean)
    interval = recovered.interval(units, n_resamples=judged.resamples, seed=judged.seed)
    values = score(images, references, more)
    return {HEADLINE: interval.to_json(),
            **{name: bootstrap_by_identity(each, units, n_resamples=judged.resamples, seed=judged.seed).to_json()
               for name, each in values.items() if np.isfinite(each).all()},
            "n_images": len(units)}


def rate(judged: Judged, hits: Tensor, units: Tensor | None = None) -> dict[str, Any]:
    """A share with its interval, for report.json; over images, or over the given ``units`` ``(N,)``."""
    own = torch.arange(len(hits)) if units is None else units
    return rate_interval(hits.double().numpy(), own.numpy(), n_resamples=judged.resamples, seed=judged.seed).to_json()
