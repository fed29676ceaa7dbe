"""Train a recogniser with an angular margin: the attack's teacher (ArcFace) or the evaluation's judge (CosFace).

Two things make it quick on two cores. The margin grows from 0, for with a full margin from the start the network
first learns to call everybody alike. And an auxiliary linear head, thrown away afterwards, reads the person's
parameters off the embedding, which procedural people come with; on photos there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor, nn

from latentprint.data.procedural import IDENTITY_NAMES, identity_parameters
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.losses.margin import AdaFaceLoss
from latentprint.models.attributes import rounded
from latentprint.models.recognisers import EMBEDDING_DIM, Recogniser, build_recogniser, embed
from latentprint.pretrain.common import PretrainConfig, draw, finish, open_run, people_of, unseen_people
from latentprint.verification import calibrate_pairs


class RecogniserConfig(PretrainConfig):
    """Settings of ``latentprint pretrain recogniser``."""

    name: str = Field("teacher", pattern=r"^[a-z][a-z0-9-]*$", description="asset name: teacher or judge")
    architecture: Literal["iresnet", "convnext"] = Field("iresnet", description="iresnet or convnext")
    dim: int = Field(EMBEDDING_DIM, ge=2, description="entries of an embedding")
    margin_kind: Literal["arcface", "cosface", "adaface"] = Field(
        "arcface", description="additive angle, additive cosine, or one that adapts to the photo's quality")
    margin: float = Field(0.4, gt=0, lt=1.5, description="radians for arcface, cosine for cosface, both for adaface")
    scale: float = Field(32.0, gt=0, description="logit scale")
    margin_from: float = Field(0.3, ge=0, le=1, description="share of the steps over which the margin grows from 0")
    parameter_weight: float = Field(20.0, ge=0, description="weight of the auxiliary regression of the person")
    steps: int = Field(3500, ge=1, description="optimiser steps")
    batch: int = Field(96, ge=2, description="images a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    people: int = Field(4000, ge=2, description="procedural people in the pool")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "judge": {"name": "judge", "architecture": "convnext", "margin_kind": "cosface", "margin": 0.3,
              "first_person": 4_000_000},
    # Two further teachers, for an attack with several.
    "cosface": {"name": "teacher-cosface", "margin_kind": "cosface", "margin": 0.3, "first_person": 5_000_000},
    "adaface": {"name": "teacher-adaface", "margin_kind": "adaface", "first_person": 6_000_000},
    "full": {"steps": 30_000, "batch": 512, "people": 20_000},
}


def pretrain(config: RecogniserConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Classify the pool's people under a margin; record TAR at FMR 1e-2 and 1e-3 on 200 unseen people."""
    run, device = open_run(config, out, resume), pick_device(config.device)
    data = people_of(config)
    network = lay_out(build_recogniser(config.architecture, config.dim), device).train()
    assert isinstance(network, Recogniser)
    margin = _margin(config, data.n_classes).to(device)
    people = range(config.first_person, config.first_person + config.people)
    truth = torch.from_numpy(identity_parameters(people)[:, : len(IDENTITY_NAMES)]).float()
    reader = nn.Linear(config.dim, len(IDENTITY_NAMES)).to(device)
    groups: list[dict[str, Any]] = [{"params": [*network.parameters(), *reader.parameters()]},
                                    {"params": list(margin.parameters()), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=5e-2)
    full_margin = margin.margin

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        index = draw(config, config.name, step, len(data))
        labels = data.labels[index]
        margin.margin = full_margin * min(1.0, step / max(1.0, config.margin_from * config.steps))
        with autocast(device, config.precision):
            embeddings = network.raw(data.floats(index).to(device)).float()
        named = margin(embeddings, labels.to(device))
        if config.data is not None:
            return named, {"margin_loss": named.detach()}
        read = (reader(embeddings) - truth[labels].to(device)).square().mean()
        return named + config.parameter_weight * read, {"margin_loss": named.detach(), "parameters": read.detach()}

    Loop(run, config.name, optimizer, {"network": network, "margin": margin, "reader": reader}, config.steps,
         warm_cosine(config.steps, 200), clip_norm=5.0, save_every=config.save_every).fit(loss_at)
    preset = {values["name"]: f" --preset {preset}" for preset, values in PRESETS.items() if "name" in values}
    command = "latentprint pretrain recogniser" + preset.get(config.name, "")
    return finish(run, config, "recogniser", config.name, network, command,
                  lambda module: verification(module, config), architecture=config.architecture, dim=config.dim)


def _margin(config: RecogniserConfig, n_people: int) -> Any:
    if config.margin_kind == "arcface":
        return ArcFaceLoss(n_people, config.dim, margin=config.margin * 180 / torch.pi, scale=config.scale)
    if config.margin_kind == "adaface":
        return AdaFaceLoss(n_people, config.dim, margin=config.margin, scale=config.scale)
    return CosFaceLoss(n_people, config.dim, margin=config.margin, scale=config.scale)


def verification(network: nn.Module, config: RecogniserConfig) -> dict[str, Any]:
    """Image-to-image TAR of unseen people at two false match rates."""
    data = unseen_people(config)
    result = calibrate_pairs(embed(network, data.images), data.labels)
    return {"tar": {f"{fmr:g}": rounded(rate) for fmr, rate in result.tar.items()},
            "n_impostor": result.n_impostor, "n_genuine": result.n_genuine}
