"""Checkpoints: nested state dicts as safetensors plus JSON, written atomically.

Any tree of dicts, lists, numbers, strings and tensors (optimisers included) is split into a flat tensor file and a
JSON skeleton, so that nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentprint.errors import RunFailed, UserError


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as ``folder`` (state.safetensors + state.json), replacing it atomically.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; the old state stays.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, "", tensors)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(tensors, fresh / "state.safetensors")
        write_text(fresh / "state.json", json.dumps(skeleton))
        if folder.exists():  # else a kill between the renames left ``old`` as the last good state
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise RunFailed(f"checkpoint {folder} could not be written ({error}); the last good one is kept") from error


def load_state(folder: Path) -> dict[str, Any] | None:
    """The state saved in ``folder``, or None when there is none. After a kill between two renames it is the old one.

    Nothing is renamed here, so that several processes can read at once; the next ``save_state`` tidies up.

    Raises:
        UserError: the checkpoint is there but cannot be read.
    """
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")
    if not folder.exists():
        return None
    try:
        tensors = load_file(folder / "state.safetensors")
        skeleton = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder} is damaged ({error}); delete the folder to redo that part") from error
    joined: dict[str, Any] = _join(skeleton, tensors)
    return joined


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"__tensor__": path}
        case dict():
            pairs = [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]
            return {"__dict__": pairs}
        case list() | tuple():
            items = [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
            return {"__tuple__": items} if isinstance(value, tuple) else items
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"cannot checkpoint {type(value).__name__} at {path}")


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__tuple__" in value:
        return tuple(_join(item, tensors) for item in value["__tuple__"])
    return {key: _join(item, tensors) for key, item in value["__dict__"]}

