"""Fit codec and prior to the public people, when they look unlike the procedural ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.diffusion.prior import TRAIN_STEPS
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import autocast
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import step_generator
from latentprint.label.presets import LabelConfig
from latentprint.models.answers import embeddings

#: Share of identities left out, so that guidance still has its unconditional prediction.
DROPOUT = 0.1


def adapt(config: LabelConfig, swapper: Swapper, teacher: nn.Module, public: ImageSet, run: RunDir) -> None:
    """Change codec and prior in place; nothing happens with zero steps."""
    if config.adapt.codec_steps:
        _adapt_codec(config, swapper, public, run)
    if config.adapt.prior_steps:
        _adapt_prior(config, swapper, teacher, public, run)


def _adapt_codec(config: LabelConfig, swapper: Swapper, public: ImageSet, run: RunDir) -> None:
    """L1 + 4 MSE, as in its pretraining; the scale of the latents stays as the prior knows it."""
    codec, settings, device = swapper.codec, config.adapt, next(swapper.parameters()).device
    codec.requires_grad_(True)
    optimizer = torch.optim.AdamW(codec.parameters(), settings.codec_lr)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(config.seed, "adapt-codec", step)
        x = public.floats(torch.randint(len(public), (settings.batch,), generator=rng)).to(device)
        with autocast(device, config.precision):
            y = codec(x)
        error = y.float() - x
        return error.abs().mean() + 4 * error.square().mean(), {"psnr": -10 * error.detach().square().mean().log10()}

    Loop(run, "adapt-codec", optimizer, {"codec": codec}, settings.codec_steps, warm_cosine(settings.codec_steps, 20),
         save_every=config.save_every).fit(loss_at)
    codec.requires_grad_(False)


def _adapt_prior(config: LabelConfig, swapper: Swapper, teacher: nn.Module, public: ImageSet, run: RunDir) -> None:
    """Repaint a public photo given an embedding of the same person, at all noise levels alike.

    Where a person has one photo alone, its own embedding is given.
    """
    prior, settings, device = swapper.prior, config.adapt, next(swapper.parameters()).device
    scenes, seen = swapper.scenes(public), embeddings(teacher, public.images, "teacher")
    sums = torch.zeros(public.n_classes, seen.shape[1]).index_add_(0, public.labels, seen)
    alone = public.counts()[public.labels] == 1
    others = F.normalize(sums[public.labels] - seen * ~alone[:, None], dim=1)
    prior.requires_grad_(True)
    optimizer = torch.optim.AdamW(prior.parameters(), settings.prior_lr)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(config.seed, "adapt-prior", step)
        index = torch.randint(len(public), (settings.batch,), generator=rng)
        scene = scenes.take(index).to(device)
        timestep = torch.randint(TRAIN_STEPS, (settings.batch,), generator=rng).to(device)
        noise = torch.randn(scene.latent.shape, generator=rng).to(device)
        dropped = (torch.rand(settings.batch, generator=rng) < DROPOUT).to(device)
        with autocast(device, config.precision):
            tokens = prior.tokens(others[index].to(device), scene.seen, dropped)
            return swapper.denoise(scene, tokens, timestep, noise)[0].mean(), {}

    Loop(run, "adapt-prior", optimizer, {"prior": prior}, settings.prior_steps, warm_cosine(settings.prior_steps, 20),
         save_every=config.save_every).fit(loss_at)
    prior.requires_grad_(False)
