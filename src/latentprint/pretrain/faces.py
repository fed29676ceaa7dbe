"""A prior of real faces in one command: codec, attribute network and face-swap prior, learned one after another
from one's own public photos, beside published recognisers that others trained.

The folder that comes out holds all that an audit needs: ``teacher``, in whose space identities are asked for;
``judge``, from which nothing here learns and which decides in the end; ``codec``, ``attributes`` and ``prior``. Some
people of the photos are kept back, and the card's numbers are theirs. Each stage goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.pixels import as_bytes
from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.data.sources import DataSource, load
from latentprint.diffusion.evaluate import generate
from latentprint.diffusion.loading import load_tools
from latentprint.engine.device import lay_out
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, check_out, manifest, now
from latentprint.engine.settings import RunConfig, settled
from latentprint.engine.state import write_text
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.models.answers import readings
from latentprint.models.assets import copy_asset, find_asset, load_asset, read_index, save_asset
from latentprint.models.attributes import in_batches
from latentprint.models.recognisers import EmbeddingNetwork, embed
from latentprint.plugins.faces.attributes import PARTS, composed
from latentprint.pretrain import attributes, codec, prior
from latentprint.pretrain.attributes import AttributesConfig
from latentprint.pretrain.codec import CodecConfig
from latentprint.pretrain.common import (
    LEAST_SIDE,
    SIDE_STEP,
    PretrainConfig,
    people_of,
    refuse_install,
    unseen_people,
)
from latentprint.pretrain.prior import PriorConfig
from latentprint.report.sheets import picture_table
from latentprint.report.values import flatten

STAGES: dict[str, Callable[[Any, Path, bool], dict[str, Any]]] = {
    "codec": codec.pretrain, "attributes": attributes.pretrain, "prior": prior.pretrain}
#: Public photos whose mean embedding the teacher is centred on.
CENTRED_ON = 2000
#: Faces of a contact sheet, and the columns that it sorts them by.
SHOWN, SHOWN_ATTRIBUTES = 12, ("yaw", "smile", "light_x")

S = TypeVar("S", bound=PretrainConfig)
Bytes = NDArray[np.uint8]


class FacesConfig(RunConfig):
    """Settings of ``latentprint pretrain faces``."""

    data: DataSource = Field(description="public photos of real people, such as {kind: folder, path: faces, size: 64}; "
                                         "never of those under audit")
    photos: int = Field(30, ge=1, description="at most so many photos of each person")
    heldout: int = Field(300, ge=1, description="people kept back for the card's numbers: at most a tenth of them")
    teacher: str = Field("faceres", description="published recogniser in whose space identities are asked for")
    judge: str = Field("dlib", description="another one, which decides in audits; nothing is learned from it")
    codec: CodecConfig = Field(CodecConfig(), description="as of 'pretrain codec'")
    attributes: AttributesConfig = Field(AttributesConfig(), description="as of 'pretrain attributes'")
    prior: PriorConfig = Field(PriorConfig(), description="as of 'pretrain prior'")


_FROM_PACKAGED = {"start": "packaged"}
_CODEC = {"identity_weight": 0.02}
# Swaps from the start: docs/results/real.md.
_PRIOR = {"swap_from": 0.02, "mirrored": True, "own_share": 0.5, "jitter": 0.02, "swap_share": 0.125,
          "identity_weight": 0.3, "attribute_weight": 0.3}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"photos": 2, "heldout": 3, "precision": "fp32",
             **{stage: {"steps": 4, "batch": 4, "save_every": 2} for stage in STAGES}},
    "small": {
        "codec": {"steps": 600, "lr": 1e-3, **_CODEC, **_FROM_PACKAGED},
        "attributes": {"steps": 800, "most_photos": 2500},
        "prior": {"steps": 4000, **_PRIOR, **_FROM_PACKAGED},
    },
    "full": {
        "codec": {"steps": 20_000, "batch": 128, "channels": 8, "identity_photos": 32, **_CODEC},
        "attributes": {"steps": 10_000, "batch": 256},
        "prior": {"steps": 100_000, "batch": 256, "width": 128, "ema": 0.9995, **_PRIOR},
    },
}


def pretrain(config: FacesConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train codec, attributes and prior into ``out``, an assets folder.

    Raises:
        UserError: a published network is missing, teacher and judge are one, or there are no faces in the photos.
    """
    check_out(out, resume)
    if config.teacher == config.judge:
        raise UserError(f"judge: '{config.judge}' is the teacher as well; a judge that the prior learned from decides "
                        "nothing")
    composed(config.assets)
    for setting, name in (("teacher", config.teacher), ("judge", config.judge)):
        if not isinstance(load_asset(name, config.assets), EmbeddingNetwork):
            raise UserError(f"{setting}: the asset '{name}' is not a recogniser")
    config, device = settled(config)
    size = load(config.data).size
    if size < LEAST_SIDE or size % SIDE_STEP:
        raise UserError(f"data: the photos have {size} pixels a side; expected a multiple of {SIDE_STEP}, at least "
                        f"{LEAST_SIDE}")
    stages = {name: _stage(config, getattr(config, name), out, size) for name in STAGES}
    for stage in stages.values():
        refuse_install(stage)
    public, unseen = people_of(stages["prior"]), unseen_people(stages["prior"])
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device)))
    say(f"pretrain faces: {len(public):,} photos of {public.n_classes:,} people to learn from, {unseen.n_classes:,} "
        f"people kept back; stages {', '.join(STAGES)}")
    if is_main():
        _enter_recognisers(config, public, out, device)
    for name, learn in STAGES.items():
        folder = out / "stages" / name
        learn(stages[name], folder, (folder / "config.yaml").exists())
        if is_main():
            copy_asset(name, folder / "assets", out)
            picture_table(_sheet(name, unseen, out, device), out / "images" / f"{name}.png", across=True)
            say(f"{name}: {out / 'images' / f'{name}.png'}")
    result = {"folder": str(out), "metrics": {name: read_index(out)[name]["metrics"] for name in STAGES},
              "public": {"source": public.source, "photos": len(public), "people": public.n_classes},
              "held_out": {"photos": len(unseen), "people": unseen.n_classes},
              "next": f"latentprint audit label --preset faces --set assets={out} "
                      f"--set 'data.public=[{_words(config)}]' --victim YOUR-MODEL.yaml"}
    run.describe(end=now())
    run.write_json("report.json", {"schema": 2, "channels": {}, **result})
    if is_main():
        write_text(out / "CARD.md", _card(config, result))
    run.close()
    say(f"next: {result['next']}")
    return result


def _stage(config: FacesConfig, stage: S, out: Path, size: int) -> S:
    """A stage's settings, with those that all stages share."""
    shared: dict[str, Any] = {"data": config.data, "photos": config.photos, "heldout": config.heldout,
                              "seed": config.seed, "device": config.device, "precision": config.precision,
                              "size": size}
    return stage.model_copy(update={**shared, "assets": out if isinstance(stage, AttributesConfig) else str(out)})


def _enter_recognisers(config: FacesConfig, public: ImageSet, out: Path, device: torch.device) -> None:
    """Teacher and judge, under these names, and the networks that find faces for them."""
    there = read_index(out)
    for name in PARTS:
        if name not in there:
            copy_asset(name, config.assets, out)
    if "judge" not in there:
        save_asset(out, "judge", load_asset(config.judge, config.assets), _record(config.judge, config), half=False)
    if "teacher" in there:
        return
    teacher = lay_out(load_asset(config.teacher, config.assets), device)
    assert isinstance(teacher, EmbeddingNetwork)  # as was checked
    Framer({"data": public.images}, out, device).frame(teacher, config.teacher, None, "teacher")
    some = public.images[torch.linspace(0, len(public) - 1, min(len(public), CENTRED_ON)).long()]
    teacher.center = readings(teacher, some, "centred", "centring the teacher").mean(0).to(device)
    save_asset(out, "teacher", teacher, {**_record(config.teacher, config), "centred_on": public.source}, half=False)


def _record(name: str, config: FacesConfig) -> dict[str, Any]:
    """What is known of a published recogniser, but for its file."""
    record = find_asset(name, config.assets)[1]
    return {key: value for key, value in record.items() if key not in ("file", "sha256", "bytes")}


@torch.no_grad()
def _sheet(name: str, unseen: ImageSet, out: Path, device: torch.device) -> dict[str, Bytes]:
    """What a stage learned, on people it never saw: pictures by heading."""
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))[:SHOWN]
    photos = unseen.take(order)
    shown = {"photo": _bytes(photos.images)}
    match name:
        case "codec":
            network = lay_out(load_asset("codec", out), device)
            coded = network(photos.floats().to(device))
            return {**shown, "through the codec": as_bytes(coded)}
        case "attributes":
            read = in_batches(lay_out(load_asset("attributes", out), device), unseen.images)
            return {f"{column}, least to most": _bytes(unseen.images[_spread(read[:, ATTRIBUTE_NAMES.index(column)])])
                    for column in SHOWN_ATTRIBUTES}
        case _:
            tools = load_tools(out, device)
            Framer({"data": unseen.images}, out, device).frame(tools.teacher, "teacher", None, "teacher")
            wanted = embed(tools.teacher, photos.images)
            onto = photos.take(torch.arange(len(photos)).roll(1))
            drawn = generate(tools.swapper, wanted, tools.swapper.scenes(onto), torch.arange(len(photos)))
            return {"person asked for": _bytes(photos.images), "painted over": _bytes(onto.images),
                    "swap": _bytes(drawn)}


def _spread(values: Tensor) -> Tensor:
    """Indices of `SHOWN` values evenly from the least to the most."""
    return values.argsort()[torch.linspace(0, len(values) - 1, SHOWN).long()]


def _words(config: FacesConfig) -> str:
    """The photos, as a setting on the command line has them."""
    given = config.data.model_dump(mode="json", exclude_unset=True)
    text: str = yaml.safe_dump({"kind": config.data.kind, **given}, default_flow_style=True, width=float("inf"))
    return text.strip()


def _card(config: FacesConfig, result: Mapping[str, Any]) -> str:
    """What the folder holds, of what it was made and how good it is, in Markdown."""
    index, public, held = read_index(Path(result["folder"])), result["public"], result["held_out"]
    rows = [f"| {name} | {record['kind']} | {record.get('source', 'trained here')} | {record.get('terms', '')} |"
            for name, record in index.items()]
    numbers = [f"| {key} | {value} |" for key, value in flatten(result["metrics"])]
    return "\n".join([
        "# A prior of real faces", "",
        f"Made by `latentprint pretrain faces` of latentprint {metadata.version('latentprint')} from "
        f"{public['photos']:,} photos of {public['people']:,} people ({public['source']}). Do not publish it unless "
        "the terms of these photos and of the networks below allow that.", "",
        "| asset | kind | from | terms |", "|---|---|---|---|", *rows, "",
        f"Measured on {held['photos']:,} photos of {held['people']:,} people that it never saw; the judge is "
        f"'{config.judge}', from which nothing was learned.", "",
        "| number | value |", "|---|---|", *numbers, "",
        "Next:", "", f"    {result['next']}", "",
    ])


def _bytes(images: Tensor) -> Bytes:
    """``(N, 3, H, W)`` to ``(N, H, W, 3)`` uint8."""
    return images.cpu().permute(0, 2, 3, 1).numpy()
