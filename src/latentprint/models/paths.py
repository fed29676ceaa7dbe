"""Paths in a file about a model: relative ones start at the file's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Endings of programs; a Python file is followed by the name in it.
PROGRAMS = (".py", ".pt2", ".pt", ".pth", ".ts", ".torchscript", ".onnx")


def beside(settings: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings of a model with the relative paths in ``model`` and of weights started at a folder.

    Returns:
        The settings, and a line for each file that is not there but in the working folder, which is then taken.
    """
    changed, notes = dict(settings), []
    for key in ("model", "weights", "warm_weights"):
        if not isinstance(value := settings.get(key), str):
            continue
        file, name = _parts(value) if key == "model" else (value, "")
        if file is None or Path(file).is_absolute():
            continue
        if not (folder / file).exists() and Path(file).exists():
            notes.append(f"{key}: there is no {folder / file}; {file} in the working folder is taken")
        else:
            changed[key] = f"{folder / file}{name}"
    return changed, notes


def _parts(spec: str) -> tuple[str | None, str]:
    """The file in a model's spec and what follows it; None: it names no file."""
    if spec.startswith(("http://", "https://")):
        return None, ""
    source, colon, name = spec.rpartition(":")
    if colon and source.endswith(".py"):
        return source, colon + name
    return (spec, "") if spec.endswith(PROGRAMS) else (None, "")
