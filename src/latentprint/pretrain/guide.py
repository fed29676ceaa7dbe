"""Train the guide: an imitation of the teacher, many times cheaper, that judges generated images in training.

A published recogniser takes most of the time of every step that shows it a generated image. The guide answers in its
space from 48 pixels, and what pleases both is more of a face than what pleases one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from latentprint.engine.device import lay_out, pick_device
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.imitation import train_imitation
from latentprint.models.answers import embeddings
from latentprint.models.assets import load_recogniser_asset
from latentprint.models.attributes import rounded
from latentprint.models.recognisers import RECOGNISERS, embed
from latentprint.pretrain.common import PretrainConfig, finish, open_run, people_of, unseen_people
from latentprint.verification import calibrate_pairs


class GuideConfig(PretrainConfig):
    """Settings of ``latentprint pretrain guide``."""

    steps: int = Field(1500, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=2, description="people a step, two photos of each")
    people: int = Field(2000, ge=2, description="procedural people in the pool")
    photos: int = Field(4, ge=1, description="photos of each, with 'data' at most so many")
    first_person: int = Field(6_000_000, ge=0, description="identity seed of the first procedural person")
    assets: str | None = Field(None, description="folder with the teacher; null: packaged")
    teacher: str = Field("teacher", description="asset of the recogniser that is imitated")
    architecture: str = Field("iresnet", description=" or ".join(RECOGNISERS))


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "full": {"steps": 20_000, "people": 20_000},
}


def pretrain(config: GuideConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Imitate the teacher on public photos; record on unseen people how like it the guide is, and what both accept.

    Raises:
        UserError: no such architecture, or settings and data that cannot be used.
    """
    if config.architecture not in RECOGNISERS:
        raise UserError(f"architecture: {config.architecture!r} is unknown; expected {' or '.join(RECOGNISERS)}")
    run, device = open_run(config, out, resume), pick_device(config.device)
    folder = Path(config.assets) if config.assets else None
    teacher = lay_out(load_recogniser_asset(config.teacher, folder, "teacher"), device)
    data = people_of(config)
    Framer({"data": data.images}, folder, device).frame(teacher, config.teacher, None, "teacher")
    targets = embeddings(teacher, data.images, "teacher").to(device)
    guide = train_imitation(data, targets, config.steps, run, "guide", seed=config.seed, precision=config.precision,
                            device=device, save_every=config.save_every, architecture=config.architecture,
                            people=config.batch, mirrored=True)
    return finish(run, config, "imitation", "guide", guide, "latentprint pretrain guide",
                  lambda module: _measured(module, teacher, config), architecture=config.architecture, dim=guide.dim)


@torch.no_grad()
def _measured(guide: nn.Module, teacher: nn.Module, config: GuideConfig) -> dict[str, Any]:
    data = unseen_people(config)
    own, theirs = embed(guide, data.images), embeddings(teacher, data.images, "teacher")
    accepted = {name: rounded(calibrate_pairs(each, data.labels).tar[1e-3])
                for name, each in (("tar", own), ("teacher_tar", theirs))}
    return {"similarity": round(float((own * theirs).sum(1).mean()), 4), **accepted, "n": len(data)}
