"""WGAN-GP refinement of the trained decoder: pictures that a critic cannot tell from the known images.

    critic:   D(G(z)) - D(x) + lambda (||grad D(x')|| - 1)^2,  x' = e x + (1 - e) G(z)
    decoder:  -D(G(z)) + 1500 MSE(G(z), x)

Source: the published attack (code of arXiv:2503.00383: ten critic steps a decoder step, lambda 10, Adam with betas 0.5
and 0.999, a cosine over twice the training); Gulrajani et al. 2017 (arXiv:1704.00028, equation 3) for the penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.device import autocast, lay_out
from latentprint.engine.loop import Loop
from latentprint.engine.seeds import derive, step_generator
from latentprint.feature.attacks.base import Harness, Source, Spent, image_size
from latentprint.feature.attacks.decoder import DecoderAttack
from latentprint.feature.attacks.settings import GANConfig
from latentprint.feature.victim import SplitVictim
from latentprint.losses.pixel import squared_error
from latentprint.models.decoders import Critic, Decoder

BETAS = (0.5, 0.999)


class GANAttack(DecoderAttack):
    """Starts from the decoder attack with its own settings, trained first or taken from that attack's checkpoint.

    Of several processes (``torchrun``) each trains a critic of its own; the decoder gets their mean gradient.
    """

    name = "gan"

    def fit(self, victim: SplitVictim, known: ImageSet) -> None:
        start = DecoderAttack(self.harness)
        start.fit(victim, known)
        self.decoder = refined(self.harness, victim, known, start.decoder)


@dataclass
class CriticTrainer:
    """A critic, images ``(B, 3, H, W)`` to ``(B,)``, with its optimiser."""

    critic: nn.Module
    optimizer: torch.optim.Optimizer
    settings: GANConfig

    def step(self, real: Tensor, fake: Tensor, factor: float, rng: torch.Generator) -> Tensor:
        """One step on pictures ``(B, 3, H, W)``; returns the estimated distance, a scalar.

        Args:
            factor: on the learning rate.
            rng: of the mixing weights, on the CPU.
        """
        self.critic.requires_grad_(True)
        distance = self.critic(real).mean() - self.critic(fake).mean()
        loss = self.settings.penalty * gradient_penalty(self.critic, real, fake, rng).mean() - distance
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if math.isfinite(float(loss.detach())):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.critic_lr * factor
            self.optimizer.step()
        self.critic.requires_grad_(False)
        return distance.detach()


def refined(harness: Harness, victim: SplitVictim, known: ImageSet, decoder: Decoder) -> Decoder:
    """The decoder, trained on against a critic and frozen again."""
    settings, device = harness.settings.gan, victim.device
    spent, source = Spent(victim.queries), Source(harness, victim, known, "gan", settings.batch)
    torch.manual_seed(derive(harness.seed, "critic", "weights"))
    critic = Critic(image_size(known))
    lay_out(critic, device)
    trainer = CriticTrainer(critic, torch.optim.Adam(critic.parameters(), settings.critic_lr, BETAS), settings)
    optimizer = torch.optim.Adam(decoder.train().requires_grad_(True).parameters(), settings.lr, BETAS)
    steps = settings.steps or max(1, settings.epochs * len(source) // settings.critic_steps)

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * step / (2 * steps))) / 2

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        for i in range(step * settings.critic_steps, (step + 1) * settings.critic_steps):
            batch = source(i)
            with torch.no_grad(), autocast(device, harness.precision):
                drawn = decoder(batch.sent).float()
            distance = trainer.step(batch.images, drawn, factor(step), step_generator(harness.seed, "penalty", i))
        with autocast(device, harness.precision):
            drawn = decoder(batch.sent).float()
        error, score = squared_error(drawn, batch.images).mean(), critic(drawn).mean()
        return settings.mse * error - score, {"mse": error.detach(), "distance": distance}

    # Gradients of 1500 times an error are large and no explosion.
    Loop(harness.run, "gan", optimizer, {"decoder": decoder, "critic": critic, "critic_optimizer": trainer.optimizer,
                                         "spent": spent, "source": source},
         steps, factor, clip_norm=math.inf, explode_norm=math.inf, save_every=harness.save_every).fit(loss_at)
    frozen: Decoder = decoder.eval().requires_grad_(False)
    return frozen


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """``(||grad D(x')||_2 - 1)^2`` at a random mixture of each pair, ``(B,)``, differentiable by the critic's weights.

    Args:
        real, fake: ``(B, 3, H, W)``.
        rng: of the mixing weights, on the CPU.
    """
    share = torch.rand((len(real), 1, 1, 1), generator=rng).to(real)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square()
