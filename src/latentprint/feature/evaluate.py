"""From reconstructions to numbers: every attack on the same images, by the same metrics.

The headline is the share of the pixels' variance that came back, ``1 - MSE / MSE of the mean image``: 0 for an
adversary who only knows the mean of the images it holds, 1 for the images themselves. Which attack is the best is
decided on one half of the images; every number is of the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.auditing.scores import Intervals, Values
from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.metrics.image import SSIM_MARGIN, mse, psnr, ssim
from latentprint.metrics.reconstruction import variance_recovered

#: Images and references ``(B, 3, H, W)`` in [0, 1] to ``(B,)``.
Metric = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Best:
    """The best of several attacks.

    Attributes:
        name: of the attack.
        chosen_on: ``(M,)`` int64, the images that decided.
        reported_on: ``(N - M,)`` int64, all the others.
        recovered: of each attack the variance recovered on the images that decided.
        scores: of the best attack, per image of ``reported_on``, as `score`.
    """

    name: str
    chosen_on: Tensor
    reported_on: Tensor
    recovered: dict[str, float]
    scores: Scores


def score(images: Tensor, references: Tensor, more: Mapping[str, Metric] | None = None, batch: int = 256) -> Scores:
    """``mse``, ``psnr`` (dB) and, from 11 pixels a side on, ``ssim`` of each image: ``(N,)`` float64.

    Args:
        images, references: ``(N, 3, H, W)`` in [0, 1].
        more: further metrics by name.

    Raises:
        ValueError: no images, shapes that differ, or values outside [0, 1].
    """
    if not len(images) or len(images) != len(references):
        raise ValueError(f"expected as many images as references, at least 1, got {len(images)} and {len(references)}")
    metrics: dict[str, Metric] = {"mse": mse, "psnr": psnr}
    if min(images.shape[-2:]) > 2 * SSIM_MARGIN:
        metrics["ssim"] = ssim
    metrics |= more or {}
    pairs = list(zip(images.split(batch), references.split(batch), strict=True))
    return {name: torch.cat([metric(*pair).detach().cpu() for pair in pairs]).double().numpy()
            for name, metric in metrics.items()}


def best_attack(drawn: Mapping[str, Tensor], references: Tensor, mean: Tensor, *, seed: int = 0,
                more: Mapping[str, Metric] | None = None) -> Best:
    """The attack that recovers most variance on a random half of the images, and its scores on the other half.

    Args:
        drawn: ``(N, 3, H, W)`` images in [0, 1] of each attack. Of two that recover alike the first wins.
        references: ``(N, 3, H, W)`` in [0, 1]. mean: ``(3, H, W)``, see `variance_recovered`.
        seed: of the halves.

    Raises:
        ValueError: no attack, fewer than two images, or other shapes than the references'.
    """
    if not drawn or len(references) < 2:
        raise ValueError(f"expected at least 1 attack and 2 images, got {len(drawn)} and {len(references)}")
    if wrong := [name for name, images in drawn.items() if images.shape != references.shape]:
        raise ValueError(f"{wrong[0]} drew {tuple(drawn[wrong[0]].shape)}, expected {tuple(references.shape)}")
    chosen_on, reported_on = halves(len(references), seed)
    recovered = {name: variance_recovered(images[chosen_on], references[chosen_on], mean).share
                 for name, images in drawn.items()}
    name = max(recovered, key=lambda each: recovered[each])
    return Best(name, chosen_on, reported_on, recovered,
                score(drawn[name][reported_on], references[reported_on], more))


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """``0 .. n - 1`` in two random halves, each ascending; the second has the odd one."""
    order = torch.randperm(n, generator=generator(seed, "halves"))
    return order[: n // 2].sort().values, order[n // 2 :].sort().values


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

    @property
    def intervals(self) -> Intervals:
        return Intervals(self.resamples, self.seed, bounded=False)

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
            **{name: judged.intervals.mean(Values(each, units)) for name, each in values.items()
               if np.isfinite(each).all()},
            "n_images": len(units)}
