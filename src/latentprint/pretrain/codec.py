"""Train the embedded codec to at least 30 dB on people it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.seeds import step_generator
from latentprint.models.codec import Codec
from latentprint.pretrain.common import PretrainConfig, draw, finish, open_run, people_of, unseen_people


class CodecConfig(PretrainConfig):
    """Settings of ``latentprint pretrain codec``."""

    steps: int = Field(2500, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=2, description="images a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    people: int = Field(1500, ge=2, description="procedural people in the pool")
    photos: int = Field(4, ge=1, description="photos of each")
    first_person: int = Field(2_000_000, ge=0, description="identity seed of the first procedural person")
    latent_noise: float = Field(0.05, ge=0, description="standard deviation of noise on the latent while training")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "full": {"steps": 20_000, "batch": 128, "people": 10_000},
}


def pretrain(config: CodecConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Minimise L1 + 4 MSE of the reconstruction; record PSNR per image on 200 unseen people."""
    run, device = open_run(config, out, resume), pick_device(config.device)
    data, codec = people_of(config), Codec()
    codec = lay_out(codec, device).train()  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(codec.parameters(), config.lr, weight_decay=1e-4)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        x = data.floats(draw(config, "codec", step, len(data))).to(device)
        with autocast(device, config.precision):
            z = codec.encode(x)
            noise = torch.randn(z.shape, generator=step_generator(config.seed, "codec-noise", step)).to(device)
            y = codec.decode(z + config.latent_noise * noise)
        y, z = y.float(), z.float()
        mse = (y - x).square().mean()
        # A soft pull of the latents towards unit scale: without it they grow until the noise stops mattering.
        scale = z.square().mean((0, 2, 3)).clamp_min(1e-8).log().square().mean()
        return (y - x).abs().mean() + 4 * mse + 1e-3 * scale, {"psnr": -10 * mse.detach().log10()}

    Loop(run, "codec", optimizer, {"codec": codec}, config.steps, warm_cosine(config.steps, 50),
         save_every=config.save_every).fit(loss_at)
    _standardise(codec.eval(), data.floats(torch.arange(0, len(data), max(1, len(data) // 1000))).to(device))
    return finish(run, config, "codec", "codec", codec, "latentprint pretrain codec",
                  lambda module: {"psnr_db": round(float(_psnr(module, unseen_people(config.size).floats())), 2)})


@torch.no_grad()
def _standardise(codec: Codec, x: Tensor) -> None:
    z = torch.cat([codec.encoder(part * 2 - 1) for part in x.split(256)])
    codec.mean.copy_(z.mean((0, 2, 3), keepdim=True))
    codec.std.copy_(z.std((0, 2, 3), keepdim=True))


@torch.no_grad()
def _psnr(codec: nn.Module, x: Tensor) -> Tensor:
    device = next(codec.parameters()).device
    mse = torch.cat([(codec(part.to(device)).clamp(0, 1) - part.to(device)).square().mean((1, 2, 3))
                     for part in x.split(256)])
    return (-10 * mse.clamp_min(1e-10).log10()).mean()
