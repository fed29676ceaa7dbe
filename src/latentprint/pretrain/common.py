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

#: People in ``data``, of whom one at least is kept back.
LEAST_PEOPLE = 3

#: Pixels a side, at least and in steps of: networks halve pictures so often.
LEAST_SIDE, SIDE_STEP = 32, 16

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
    photos: int = Field(10, ge=1, description="photos of each, with 'data' at most so many")
    data: DataSource | None = Field(None, description="pictures in place of procedural people")
    heldout: int = Field(200, ge=1, description="people of 'data' that are kept back for the recorded metrics: at most "
                                                "a tenth of them")
    size: int = Field(64, ge=LEAST_SIDE, multiple_of=SIDE_STEP, description="picture height and width, pixels")
    device: DeviceName = Field("auto", description="auto, cpu or cuda")
    precision: Precision = Field("auto", description="fp32, bf16, or auto: bf16 where the hardware has it")
    accumulate: Accumulate = 1
    save_every: int = Field(250, ge=1, description="steps between checkpoints")
    install: bool = Field(False, description="put the result among the packaged assets")


def open_run(config: PretrainConfig, out: Path, resume: bool) -> RunDir:
    """The run directory of a pretraining, with the seed set and the manifest begun.

    Raises:
        UserError: see `refuse_install`.
    """
    refuse_install(config)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device)))
    return run


def refuse_install(config: PretrainConfig) -> None:
    """Raises UserError for ``install`` of what is learned from photos: the package ships procedural people alone."""
    if config.install and config.data is not None and config.data.kind != "procedural":
        raise UserError("install: the package holds networks of procedural people alone, and this one learns from "
                        "photos; leave install out, and name the folder of the result as assets")


def people_of(config: PretrainConfig) -> ImageSet:
    """The pool: of each person at most ``photos`` pictures, grouped by person, with holes.

    Raises:
        UserError: too few people in ``data``, or pictures of another size.
    """
    if config.data is None:
        return load(ProceduralSource(people=config.people, photos=config.photos, first_identity=config.first_person,
                                     size=config.size))
    given = _given(config)
    for note in (*given.notes, *enforce([flat_images(given, every_class=False)])):
        say(note)
    return with_holes(given.of_classes(range(given.n_classes - _heldout(config, given))).first_photos(config.photos)[0])


def unseen_people(config: PretrainConfig, photos: int = 6) -> ImageSet:
    """People for the recorded metrics, with holes: 200 procedural ones, or those of ``data`` that are kept back."""
    if config.data is None:
        return make_people(UNSEEN_PEOPLE, photos, size=config.size)
    given = _given(config)
    return with_holes(given.of_classes(range(given.n_classes - _heldout(config, given), given.n_classes)))


def _given(config: PretrainConfig) -> ImageSet:
    assert config.data is not None
    given = load(config.data)
    if given.n_classes < LEAST_PEOPLE:
        raise UserError(f"data: {given.source} has {given.n_classes} people; at least {LEAST_PEOPLE} are needed")
    if given.size != config.size:
        raise UserError(f"size: {config.size}, and the pictures of {given.source} have {given.size} pixels; set them "
                        "alike")
    return given


def _heldout(config: PretrainConfig, given: ImageSet) -> int:
    return min(config.heldout, max(1, given.n_classes // 10))


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


def finish(run: RunDir, config: PretrainConfig, /, kind: str, name: str, module: nn.Module, command: str,
           measure: Callable[[nn.Module], dict[str, Any]], **record: Any) -> dict[str, Any]:
    """Measure the network as half precision will store it, write the asset and its record.

    Args:
        command: what was typed, without settings.
        record: more to keep with the asset, e.g. what it takes to build the module; or other values than these.
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
    run.write_json("report.json", {"schema": 2, "channels": {}, "asset": name, **full})
    run.close()
    return {"asset": name, **full}
