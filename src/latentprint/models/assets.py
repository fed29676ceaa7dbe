"""Small pretrained networks that ship with the package, and the record of how each was made.

``assets.json`` holds, for each asset: file, SHA-256, kind, the command, configuration and seed that made it and the
metrics it reached. ``latentprint pretrain`` remakes any of them into a folder of the same form, and ``latentprint
convert`` makes such a folder of what others publish.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors.torch import save_file
from torch import nn

from latentprint.engine.state import write_text
from latentprint.errors import UserError
from latentprint.models.checkpoints import fill, load_state
from latentprint.models.published import how_to_get
from latentprint.models.recognisers import EmbeddingNetwork

PACKAGED = Path(__file__).parent.parent / "assets"
INDEX = "assets.json"

#: Kind of an asset -> the function that builds the empty network from its record, imported when one is loaded.
BUILDERS = {
    "codec": "latentprint.models.codec:build",
    "recogniser": "latentprint.models.recognisers:build",
    "attributes": "latentprint.models.attributes:build",
    "prior": "latentprint.diffusion.prior:build",
    "reface": "latentprint.plugins.reface.prior:build",
    "stable": "latentprint.plugins.stable.prior:build",
    "kl-codec": "latentprint.plugins.stable.codec:build",
    "published-recogniser": "latentprint.plugins.arcface.build:build",
    "face-recogniser": "latentprint.plugins.faces.build:build",
    "face-landmarks": "latentprint.plugins.faces.build:build",
    "face-expression": "latentprint.plugins.faces.build:build",
    "face-attributes": "latentprint.plugins.faces.attributes:build",
    "face-detector": "latentprint.plugins.faces.build:build",
}


def user_assets() -> Path | None:
    """The user's own folder of assets, which need not be there: ``$LATENTPRINT_ASSETS``, or ``assets`` where the system
    keeps a program's data; None when the variable is empty."""
    chosen = os.environ.get("LATENTPRINT_ASSETS")
    if chosen is None:
        return Path(platformdirs.user_data_dir("latentprint", appauthor=False)) / "assets"
    return Path(chosen).expanduser() if chosen else None


def asset_folders(folder: Path | None = None) -> list[Path]:
    """Where assets are looked for, in this order: the folder given, the packaged ones, the user's own."""
    return [place for place in (folder, PACKAGED, user_assets()) if place is not None]


def has_asset(name: str, folder: Path | None = None) -> bool:
    """Whether `find_asset` would find it."""
    return any(name in read_index(place) for place in asset_folders(folder))


def read_index(folder: Path = PACKAGED) -> dict[str, dict[str, Any]]:
    """Asset name -> record; empty when the folder has none."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"assets index {path} is not valid JSON ({error})") from error
    return index


def find_asset(name: str, folder: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Where an asset's file is, and its record.

    Args:
        name: e.g. ``codec``, ``teacher``, ``judge``, ``attributes``, ``prior``; ``dlib``, ``faceres``.
        folder: where to look first (what ``latentprint pretrain`` wrote), before those of `asset_folders`.

    Raises:
        UserError: it is not there, or the folder does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"assets: {folder} is not a folder; expected one that 'latentprint pretrain' wrote")
    for place in asset_folders(folder):
        if name in (index := read_index(place)):
            return place / index[name]["file"], index[name]
    if (command := how_to_get(name)) is not None:
        raise UserError(f"asset {name!r} is published elsewhere and not converted yet; type: {command}")
    raise UserError(f"asset {name!r} is not among the packaged assets; make it with 'latentprint pretrain'")


def load_asset(name: str, folder: Path | None = None) -> nn.Module:
    """A frozen network in evaluation mode; see ``find_asset`` for the arguments.

    Raises:
        UserError: not there, or the file is not the one that was recorded.
    """
    path, record = find_asset(name, folder)
    if not path.is_file() or file_hash(path) != record["sha256"]:
        raise UserError(f"asset {name}: {path} is missing or is not the file recorded in {INDEX}; "
                        f"make it again with '{record.get('command', 'latentprint pretrain')}' or reinstall the "
                        "package")
    module, state = builder_of(record["kind"])(record), load_state(path)
    if isinstance(module, EmbeddingNetwork) and "center" in state:
        module.center = torch.zeros(module.dim)  # made room for, then filled
    fill(module, state, f"asset {name}: {path} does not fit its record")
    return module.eval().requires_grad_(False)


def load_recogniser_asset(name: str, folder: Path | None, setting: str) -> EmbeddingNetwork:
    """`load_asset` of a network whose answers are embeddings.

    Args:
        setting: that names the asset, for the message.

    Raises:
        UserError: as `load_asset`, or the asset is another kind of network.
    """
    try:
        module = load_asset(name, folder)
    except UserError as error:
        raise UserError(f"{setting}: {error}") from None
    if not isinstance(module, EmbeddingNetwork):
        raise UserError(f"{setting}: the asset {name!r} is not a recogniser but of the kind "
                        f"{find_asset(name, folder)[1]['kind']}")
    return module


def builder_of(kind: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    """How an asset of this kind is built from its record."""
    module, _, name = BUILDERS[kind].partition(":")
    found: Callable[[Mapping[str, Any]], nn.Module] = getattr(importlib.import_module(module), name)
    return found


def save_asset(folder: Path, name: str, module: nn.Module, record: Mapping[str, Any], half: bool = True) -> Path:
    """Write ``name.safetensors``, with ``half`` in half precision, and its record into ``folder``'s index.

    Each file is written beside its place and moved there, so that no half-written one is ever found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    weights = {key: (value.half() if half and value.is_floating_point() else value).cpu().contiguous()
               for key, value in module.state_dict().items()}
    fresh = path.with_name(path.name + ".new")
    save_file(weights, fresh)
    fresh.replace(path)
    _enter(folder, name, {"file": path.name, "sha256": file_hash(path), "bytes": path.stat().st_size, **record})
    return path


def copy_asset(name: str, source: Path | None, folder: Path) -> Path:
    """Put an asset, byte for byte and with its record, into ``folder`` as well; ``source``: see `find_asset`."""
    path, record = find_asset(name, source)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}{path.suffix}"
    fresh = made.with_name(made.name + ".new")
    shutil.copyfile(path, fresh)
    fresh.replace(made)
    _enter(folder, name, {**record, "file": made.name})
    return made


def _enter(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    index = {**read_index(folder), name: record}
    write_text(folder / INDEX, json.dumps(dict(sorted(index.items())), indent=1) + "\n")


def list_assets(folder: Path = PACKAGED) -> list[dict[str, Any]]:
    """One dict an asset: the record, its name, and ``ok`` when the file is there with the recorded hash."""
    rows = []
    for name, record in read_index(folder).items():
        path = folder / record["file"]
        rows.append({"name": name, **record, "ok": path.is_file() and file_hash(path) == record["sha256"]})
    return rows


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def half_round(module: nn.Module) -> nn.Module:
    """Round the weights to what half precision stores, so that metrics are those of the shipped file."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
    return module
