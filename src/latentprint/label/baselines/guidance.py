"""Classifier-guided sampling (Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2); the victim knows no noise.

Their DDIM step subtracts ``sqrt(1 - abar_t) grad_{x_t} log p(y | x_t)`` from the predicted noise, which moves the
predicted clean latent by ``(1 - abar_t) / sqrt(abar_t)`` times that gradient. The victim sees clean pictures alone, so
``p(y | x0)`` is asked at the prediction x0. By the chain rule the move is then
``(1 - abar_t) / sqrt(abar_t) (d x0 / d x_t)^T grad_{x0} log p(y | x0)``, and the matrix before the gradient is the
covariance of the clean latent given x_t (second-order Tweedie formula). Latents have about unit variance, so
``(1 - abar_t) I`` stands for it: exact for white latents, finite at the pure noise where sampling starts, and without a
gradient through the prior.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentprint.attack import Draw
from latentprint.diffusion.prior import TRAIN_STEPS, clean_and_noise, signal_and_noise
from latentprint.diffusion.scene import Scene
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import autocast
from latentprint.label.attack import scene_of
from latentprint.label.baselines.base import Baseline, batches
from latentprint.label.views import clipped
from latentprint.losses.classification import cross_entropy
from latentprint.victim import Victim


class ClassifierGuidance(Baseline):
    """Nobody in particular, led to the class: one gradient a picture and DDIM step, so the budget sets the steps.

    Below one gradient a picture it draws unguided, in as many steps as the other arms. Killed midway it starts over.
    """

    @torch.no_grad()
    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        h, device = self.harness, self.harness.tools.device
        index = scene_of(seeds, len(h.tools.public))
        steps = min(TRAIN_STEPS, h.steps(len(classes)))
        scale = h.settings.guidance.scale if steps else 0.0
        parts = []
        for part in batches(len(classes), "guidance"):
            guided = Guided(h.tools.swapper, victim, classes[part].to(device), scale)
            scene = h.tools.scenes.take(index[part]).to(device)
            nobody = torch.zeros(len(part), h.tools.embeddings.shape[1], device=device)
            with autocast(device, h.precision):
                parts.append(guided.ddim(nobody, scene, seeds[part], steps or h.config.sample_steps).float().cpu())
        return Draw(torch.cat(parts), index)


class Guided(Swapper):
    """A swapper whose predictions leave the identity out and go where the victim sees the classes ``(B,)``.

    Args:
        scale: factor on the gradient; at 0 the victim is not asked and the sample is the unconditional one.
    """

    def __init__(self, swapper: Swapper, victim: Victim, classes: Tensor, scale: float) -> None:
        super().__init__(swapper.prior, swapper.codec, swapper.attributes)
        self.victim, self.classes, self.scale = victim, classes, scale

    def predict(self, noisy: Tensor, timestep: Tensor, scene: Scene, embedding: Tensor,
                guidance: float = 1.0) -> tuple[Tensor, Tensor]:
        """(x0, epsilon) of noisy latents, guided; whose ``embedding`` and how much ``guidance`` play no part."""
        nobody = torch.ones(len(noisy), dtype=torch.bool, device=noisy.device)
        said = self.ask(noisy, timestep, scene, self.prior.tokens(embedding, scene.seen, nobody))
        clean, noise = clean_and_noise(self.schedule, noisy, said.float(), timestep)
        if not self.scale:
            return clean, noise
        a, s = signal_and_noise(self.schedule, timestep, noisy)
        moved = clean + self.scale * s.square() * self.slope(clean, scene)
        return moved, (noisy - a * moved) / s

    @torch.enable_grad()
    def slope(self, clean: Tensor, scene: Scene) -> Tensor:
        """Gradient of the victim's log-probability of the class by the clean latent, ``(B, 4, h, w)``."""
        x = clean.detach().requires_grad_(True)
        logits = self.victim(clipped(self.paste(x, scene))).float()
        return torch.autograd.grad(-cross_entropy(logits, self.classes).sum(), x)[0]
