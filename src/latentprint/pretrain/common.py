"""What every pretraining has in common: its people, its loop and the record of what came out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field
from torch import Tensor, nn

from latentprint.checks import enforce, flat_images
from latentprint.config import Config
from latentprint.data.base import ImageSet
from latentprint.data.faceregion import with_holes
from latentprint.data.procedural import make_people
from latentprint.data.sources import DataSource, ProceduralSource, load
from latentprint.engine.device import DeviceName, Precision, pick_device
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, manifest, now
from latentprint.engine.seeds import step_generator
from latentprint.engine.settings import Accumulate
from latentprint.errors import UserError
from latentprint.models.assets import PACKAGED, half_round, save_asset

#: People of the metrics recorded with an asset; no pretraining and no audit ever sees them.
UNSEEN_PEOPLE = range(9_000_000, 9_000_200)

#: Settings that say where a run takes place, not what it makes.
_PLACE = {"install", "device", "assets"}


class PretrainConfig(Config):
    """Settings that all pretrainings share."""

    seed: int = Field(0, ge=0, description="seed of weights and batches")
    steps: int = Field(2000, ge=1, description="optimiser steps")
    batch: int = Field(64, ge=2, description="images a step (pairs for the prior)")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    first_person: int = Field(1_000_000, ge=0, description="identity seed of the first procedural person")
    people: int = Field(3000, ge=2, description="procedural people in the pool")
    photos: int = Field(10, ge=2, description="photos of each")
    data: DataSource | None = Field(None, description="pictures in place of procedural people; of everyone who has as "
                                                      "many as 'photos', the first so many")
    size: int = Field(64, ge=32, multiple_of=16, description="picture height and width, pixels")
    device: DeviceName = Field("auto", description="auto, cpu or cuda")
    precision: Precision = Field("auto", description="fp32, bf16, or auto: bf16 where the hardware has it")
    accumulate: Accumulate = 1
    save_every: int = Field(250, ge=1, description="steps between checkpoints")
    install: bool = Field(False, description="put the result among the packaged assets")


def open_run(config: PretrainConfig, out: Path, resume: bool) -> RunDir:
    """The run directory of a pretraining, with the seed set and the manifest begun."""
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device)))
    return run


def people_of(config: PretrainConfig) -> ImageSet:
    """The pool: of each person ``photos`` pictures, grouped by person, with holes.

    Raises:
        UserError: too few people of ``data`` have so many.
    """
    if config.data is not None:
        given = load(config.data)
        for note in (*given.notes, *enforce([flat_images(given, every_class=False)])):
            say(note)
        enough = (given.counts() >= config.photos).nonzero().flatten().tolist()
        if len(enough) < 2:
            raise UserError(f"data: {len(enough)} people of {given.source} have photos = {config.photos} pictures; "
                            "at least 2 are needed")
        return with_holes(given.of_classes(enough).first_photos(config.photos)[0])
    return load(ProceduralSource(people=config.people, photos=config.photos, first_identity=config.first_person,
                                 size=config.size))


def unseen_people(size: int, photos: int = 6) -> ImageSet:
    """200 people for the recorded metrics."""
    return make_people(UNSEEN_PEOPLE, photos, size=size)


def draw(config: PretrainConfig, name: str, step: int, n: int) -> Tensor:
    """Indices of a step's batch out of ``n`` images."""
    return torch.randint(n, (config.batch,), generator=step_generator(config.seed, name, step))


def command_of(config: PretrainConfig, command: str) -> str:
    """``command`` with every setting that is not the default; a preset in it is spelt out in settings as well."""
    default = type(config)().model_dump(mode="json")
    differing = {key: value for key, value in config.model_dump(mode="json").items()
                 if key not in _PLACE and value != default[key]}
    return " ".join([command.partition(" --preset ")[0],
                     *(f"--set {shlex.quote(f'{key}={_scalar(value)}')}" for key, value in differing.items())])


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("...\n").strip()


def finish(run: RunDir, config: PretrainConfig, kind: str, name: str, module: nn.Module, command: str,
           measure: Callable[[nn.Module], dict[str, Any]], **record: Any) -> dict[str, Any]:
    """Measure the network as half precision will store it, write the asset and its record.

    Args:
        command: what was typed, without settings.
        record: more to keep with the asset, e.g. what it takes to build the module.
    """
    module = half_round(module.eval())
    metrics = measure(module)
    settings = config.model_dump(mode="json")
    full = {"kind": kind, "command": command_of(config, command), "metrics": metrics, "config": settings,
            "made": now()[:10], **record}
    if is_main():
        save_asset(run.path / "assets", name, module, full)
        if config.install:
            save_asset(PACKAGED, name, module, full)
    run.describe(end=now())
    run.write_json("report.json", {"schema": 1, "channels": {}, "asset": name, **full})
    run.close()
    return {"asset": name, **full}
