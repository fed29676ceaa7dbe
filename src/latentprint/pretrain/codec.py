"""Train the embedded codec to at least 30 dB on people it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentprint.data.augment import jittered
from latentprint.data.base import ImageSet
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.seeds import step_generator
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.losses.identity import identity_cosine
from latentprint.models.assets import PACKAGED, load_asset
from latentprint.models.codec import LATENT_CHANNELS, Codec
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.pretrain.common import (
    PretrainConfig,
    draw,
    finish,
    open_run,
    people_of,
    unseen_people,
)


class CodecConfig(PretrainConfig):
    """Settings of ``latentprint pretrain codec``."""

    steps: int = Field(2500, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=2, description="images a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    people: int = Field(1500, ge=2, description="procedural people in the pool")
    photos: int = Field(4, ge=1, description="photos of each, with 'data' at most so many")
    first_person: int = Field(2_000_000, ge=0, description="identity seed of the first procedural person")
    start: Literal["new", "packaged"] = Field("new", description="weights to begin with: random ones, or those of the "
                                                                 "packaged codec")
    channels: int = Field(LATENT_CHANNELS, ge=4, le=32, description="of the latents; more keep more of who it is, and "
                                                                    "make the prior's task larger")
    latent_noise: float = Field(0.05, ge=0, description="standard deviation of noise on the latent while training")
    assets: str | None = Field(None, description="folder with the teacher; null: packaged")
    teacher: str = Field("teacher", description="asset of the recogniser that 'identity_weight' asks")
    identity_weight: float = Field(0.0, ge=0, description="weight of the teacher's 1 - cos between photo and "
                                                          "reconstruction: small errors can cost the person's identity")
    identity_photos: int = Field(4, ge=1, description="photos of a step that the teacher looks at")
    jitter: float = Field(0.02, ge=0, le=0.2, description="by which both are moved before it looks, as of 'pretrain "
                                                          "prior'")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "full": {"steps": 20_000, "batch": 128, "people": 10_000},
}


def pretrain(config: CodecConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Minimise L1 + 4 MSE of the reconstruction, and what the teacher minds; record PSNR per image on unseen people."""
    run, device = open_run(config, out, resume), pick_device(config.device)
    data = people_of(config)
    codec = begun(config)
    codec = lay_out(codec, device).train()  # type: ignore[assignment]
    teacher = _teacher(config, data, device) if config.identity_weight > 0 else None
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
        loss = (y - x).abs().mean() + 4 * mse + 1e-3 * scale
        values: dict[str, Tensor | float] = {"psnr": -10 * mse.detach().log10()}
        if teacher is not None:
            lost = _identity_lost(teacher, x, y, config, step)
            loss, values["identity"] = loss + config.identity_weight * lost, lost.detach()
        return loss, values

    Loop(run, "codec", optimizer, {"codec": codec}, config.steps, warm_cosine(config.steps, 50),
         save_every=config.save_every).fit(loss_at)
    _standardise(codec.eval(), data.floats(torch.arange(0, len(data), max(1, len(data) // 1000))).to(device))
    return finish(run, config, "codec", "codec", codec, "latentprint pretrain codec",
                  lambda module: {"psnr_db": round(float(_psnr(module, unseen_people(config).floats())), 2)},
                  channels=config.channels)


def begun(config: CodecConfig) -> Codec:
    """The network to train: a new one, or the packaged one, whose latents get further channels where more are asked
    for, unread at first."""
    codec = Codec(channels=config.channels)
    if config.start == "packaged":
        state, given = codec.state_dict(), load_asset("codec", PACKAGED).state_dict()
        for name, value in state.items():
            source = given[name]
            if value.shape != source.shape and name == "decoder.0.weight":
                value.zero_()
            value[tuple(slice(size) for size in source.shape)] = source
        codec.load_state_dict(state)
    return codec


def _teacher(config: CodecConfig, data: ImageSet, device: torch.device) -> EmbeddingNetwork:
    folder = Path(config.assets) if config.assets else None
    teacher = lay_out(load_asset(config.teacher, folder), device)
    if not isinstance(teacher, EmbeddingNetwork):
        raise UserError(f"teacher: the asset {config.teacher!r} is not a recogniser")
    Framer({"data": data.images}, folder, device).frame(teacher, config.teacher, None, "teacher")
    return teacher


def _identity_lost(teacher: EmbeddingNetwork, x: Tensor, y: Tensor, config: CodecConfig, step: int) -> Tensor:
    """1 - cos between the teacher's embeddings of some photos and of their reconstructions, moved alike."""
    real, coded = (teacher(jittered(each[: config.identity_photos], config.jitter,
                                          step_generator(config.seed, "codec-view", step))) for each in (x, y))
    return identity_cosine(coded, real.detach()).mean()


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
