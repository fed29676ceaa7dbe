"""MI-Face: gradient ascent on pixels, without any prior (Fredrikson, Jha and Ristenpart, CCS 2015, algorithm 1).

The pixels are those that every other arm repaints: the hole of the attribute image. So arms differ inside the face
alone, and outside it a picture never shows more than a public photo. The start is a grey hole (the paper starts from
zeros): what the prior is given too, and nobody's face, as the photo's own would be.

Two changes to the paper. The cost is ``-log p_y`` in place of ``1 - p_y``: the same minima, and a gradient where p_y is
small, as it is with many classes. The gradient is scaled to a largest entry of 1 in each picture, so that the paper's
step of 0.1 suits any victim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from latentprint.attack import Draw
from latentprint.diffusion.swap import Scene
from latentprint.engine.device import autocast
from latentprint.label.attack import scene_of
from latentprint.label.baselines.base import Baseline, batches
from latentprint.losses.classification import cross_entropy
from latentprint.victim import Victim


class MIFace(Baseline):
    """One gradient a picture and step; the budget is shared out evenly. Killed midway it starts over."""

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        tools, steps = self.harness.tools, self.harness.steps(len(classes))
        index = scene_of(seeds, len(tools.public))
        parts = [self.ascend(victim, classes[part].to(tools.device), tools.scenes.take(index[part]).to(tools.device),
                             steps).cpu() for part in batches(len(classes), "mi-face")]
        return Draw(torch.cat(parts), index)

    def ascend(self, victim: Victim, classes: Tensor, scene: Scene, steps: int) -> Tensor:
        """The least costly picture on the way, ``(B, 3, H, W)`` in [0, 1], as the paper returns it."""
        settings = self.harness.settings.mi_face
        x = best = repaint(scene, torch.full_like(scene.image, 0.5))
        least = torch.full((len(x),), torch.inf, device=x.device)
        for step in range(steps + 1):
            x = x.detach().requires_grad_(step < steps)
            with autocast(x.device, self.harness.precision):
                cost = cross_entropy(victim(x).float(), classes)
            better = cost <= least
            best = torch.where(better[:, None, None, None], x, best).detach()
            least = torch.where(better, cost, least).detach()
            if step < steps:
                moved = descend(x.detach(), torch.autograd.grad(cost.sum(), x)[0], settings.step)
                x = repaint(scene, smoothed(moved, settings.smoothing))
        return best


def repaint(scene: Scene, face: Tensor) -> Tensor:
    """The scene with ``face`` ``(B, 3, H, W)`` in its hole."""
    return torch.where(scene.hole > 0, face, scene.image)


def descend(x: Tensor, gradient: Tensor, step: float) -> Tensor:
    """A step down, clipped to [0, 1]; in each picture the pixel with the largest gradient moves by ``step``."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    return (x - step * gradient / largest).clamp(0, 1)


def smoothed(x: Tensor, std: float) -> Tensor:
    """The paper's PROCESS: a Gaussian blur of ``std`` pixels; nothing at 0."""
    return gaussian_blur(x, [2 * int(3 * std + 1) + 1] * 2, [std] * 2) if std else x
