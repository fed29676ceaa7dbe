"""Train the attribute network: on procedural faces, where pose, expression and light are known, or on photos, where the
published networks of landmarks and of expression measure them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import step_generator
from latentprint.models.assets import PACKAGED, load_asset
from latentprint.models.attributes import AttributeNetwork, Domain, agreement, in_batches
from latentprint.plugins.faces.attributes import FaceAttributes, composed, sources
from latentprint.pretrain.common import PretrainConfig, draw, finish, open_run, people_of, unseen_people
from latentprint.pretrain.photos import MOST_UNSEEN, measure_photos, views

COMMAND = "latentprint pretrain attributes"


class AttributesConfig(PretrainConfig):
    """Settings of ``latentprint pretrain attributes``."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    people: int = Field(6000, ge=2, description="procedural people in the pool")
    photos: int = Field(3, ge=1, description="photos of each, with 'data' at most so many")
    first_person: int = Field(3_000_000, ge=0, description="identity seed of the first procedural person")
    start: Literal["new", "packaged"] = Field("new", description="weights to begin with: random ones, or those of the "
                                                                 "packaged attribute network")
    network: Literal["small", "composed"] = Field("small", description=(
        "small: one network learns the attributes; composed: the published networks themselves, which learn nothing, "
        "need no data and take several times as long"))
    assets: Path | None = Field(None, description="for photos: folder with landmarks and expression, as 'latentprint "
                                                  "convert faces' makes; null: where that puts them")
    most_photos: int = Field(6000, ge=2, description="of the photos in data, at most so many are measured and learned "
                                                     "from")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32",
             "most_photos": 40},
    "small": {},
    "full": {"steps": 20_000, "batch": 256, "people": 20_000, "most_photos": 100_000},
}


@dataclass(frozen=True)
class TrainingSet:
    """What is learned.

    Attributes:
        batch: step to pictures ``(B, 3, H, W)`` and their attributes ``(B, 10)``.
        measure: a trained network's metrics. record: more to keep with the asset.
    """

    domain: Domain
    batch: Callable[[int], tuple[Tensor, Tensor]]
    measure: Callable[[nn.Module], dict[str, Any]]
    record: dict[str, Any] = field(default_factory=dict)


def pretrain(config: AttributesConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Minimise the squared error of the attributes; record each one's correlation on unseen people.

    Raises:
        UserError: there are photos to learn from, but not the networks that measure them.
    """
    on_photos = config.data is not None and config.data.kind != "procedural"
    measuring = composed(config.assets) if on_photos or config.network == "composed" else None
    run, device = open_run(config, out, resume), pick_device(config.device)
    if measuring is not None and config.network == "composed":
        # Its record names no people, for it learned from none.
        return finish(run, config, "face-attributes", "attributes", measuring, COMMAND, lambda module: {},
                      domain="real", measured_by=sources(config.assets), config={"network": config.network})
    training = rendered_faces(config) if measuring is None else photos(run, config, measuring.to(device))
    network = lay_out(begun(config, training.domain), device).train()
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        pictures, truth = training.batch(step)
        with autocast(device, config.precision):
            predicted = network(pictures.to(device))
        return (predicted.float() - truth.to(device)).square().mean(), {}

    Loop(run, "attributes", optimizer, {"network": network}, config.steps, warm_cosine(config.steps, 100),
         save_every=config.save_every).fit(loss_at)
    return finish(run, config, "attributes", "attributes", network, COMMAND, training.measure, domain=training.domain,
                  **training.record)


def begun(config: AttributesConfig, domain: Domain) -> AttributeNetwork:
    """The network to train."""
    network = AttributeNetwork(domain)
    if config.start == "packaged":
        network.load_state_dict(load_asset("attributes", PACKAGED).state_dict())
    return network


def rendered_faces(config: AttributesConfig) -> TrainingSet:
    """Procedural people; the metrics are of 200 others."""
    data = people_of(config)
    assert data.attributes is not None
    truth = data.attributes

    def batch(step: int) -> tuple[Tensor, Tensor]:
        index = draw(config, "attributes", step, len(data))
        return data.floats(index), truth[index]

    def measure(network: nn.Module) -> dict[str, Any]:
        unseen = unseen_people(config)
        assert unseen.attributes is not None
        return {"correlation": agreement(in_batches(network, unseen.images), unseen.attributes)}

    return TrainingSet("procedural", batch, measure)


def photos(run: RunDir, config: AttributesConfig, measuring: FaceAttributes) -> TrainingSet:
    """Photos of ``data``; the metrics are of people who are kept back, against what is measured in their photos."""
    known = measure_photos(run, "measured", measuring, people_of(config), config.most_photos)
    unseen = measure_photos(run, "measured-unseen", measuring, unseen_people(config), MOST_UNSEEN)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return views(known, draw(config, "attributes", step, len(known.images)),
                     step_generator(config.seed, "views", step))

    def measure(network: nn.Module) -> dict[str, Any]:
        return {"correlation": agreement(in_batches(network, unseen.images), unseen.attributes),
                "photos": len(unseen.images)}

    return TrainingSet("real", batch, measure, {"measured_by": sources(config.assets)})
