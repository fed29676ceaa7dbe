"""Train the attribute network on procedural faces, where pose, expression and light are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.errors import UserError
from latentprint.models.attributes import AttributeNetwork, in_batches
from latentprint.pretrain.common import PretrainConfig, draw, finish, open_run, people_of, unseen_people


class AttributesConfig(PretrainConfig):
    """Settings of ``latentprint pretrain attributes``."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    people: int = Field(6000, ge=2, description="procedural people in the pool")
    photos: int = Field(3, ge=1, description="photos of each, with 'data' at most so many")
    first_person: int = Field(3_000_000, ge=0, description="identity seed of the first procedural person")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "full": {"steps": 20_000, "batch": 256, "people": 20_000},
}


def pretrain(config: AttributesConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Minimise the squared error of the attributes; record each one's correlation on 200 unseen people."""
    if config.data is not None and config.data.kind != "procedural":
        raise UserError("data: the attribute network learns pose, expression and light, which are known of procedural "
                        "faces alone; leave data out")
    run, device = open_run(config, out, resume), pick_device(config.device)
    data = people_of(config)
    assert data.attributes is not None
    truth = data.attributes
    network = lay_out(AttributeNetwork(), device).train()
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        index = draw(config, "attributes", step, len(data))
        with autocast(device, config.precision):
            predicted = network(data.floats(index).to(device))
        return (predicted.float() - truth[index].to(device)).square().mean(), {}

    Loop(run, "attributes", optimizer, {"network": network}, config.steps, warm_cosine(config.steps, 100),
         save_every=config.save_every).fit(loss_at)
    return finish(run, config, "attributes", "attributes", network, "latentprint pretrain attributes",
                  lambda module: {"correlation": correlations(module, config)})


def correlations(network: nn.Module, config: AttributesConfig) -> dict[str, float]:
    """Pearson correlation of each predicted attribute with the truth, on unseen people."""
    data = unseen_people(config)
    assert data.attributes is not None
    predicted, truth = in_batches(network, data.images).numpy(), data.attributes.numpy()
    return {name: round(float(np.corrcoef(predicted[:, i], truth[:, i])[0, 1]), 4)
            for i, name in enumerate(ATTRIBUTE_NAMES)}
