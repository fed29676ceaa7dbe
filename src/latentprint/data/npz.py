"""Image packs: one ``.npz`` file with ``images``, ``labels``, ``class_names`` and further columns.

Packs are read with ``allow_pickle=False``: a file from elsewhere cannot run code here. The names and layouts in which
such arrays are usually kept are read where they can mean one thing alone, and the notes say what was assumed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from latentprint.data.arrays import Labels, images_of, labels_of
from latentprint.data.base import ImageSet
from latentprint.data.pixels import resize_square
from latentprint.errors import UserError

EVERYTHING: Mapping[str, int] = MappingProxyType({})
#: What the arrays are called, the names of this package first; upper and lower case are alike.
IMAGES, LABELS, NAMES = ("images", "x", "data"), ("labels", "y", "targets", "target"), (
    "class_names", "classes", "target_names", "label_names")
_DAMAGE = (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


def load_npz(path: Path, size: int, where: Mapping[str, int] = EVERYTHING) -> ImageSet:
    """A pack's images, centre-cropped to a square and resized with antialiasing.

    Args:
        path: a file with ``images``, ``labels`` and, perhaps, ``class_names``; see `images_of` and `labels_of` for
            what they may be.
        size: height and width in pixels.
        where: keep the images whose column has this value, ``{"split": 0}``; classes left without images go.

    Raises:
        UserError: missing or damaged file, pickled content, missing key, an array that could mean two things, nothing
            left.
    """
    keys, pack = _read(path, tuple(where))
    images, read = images_of(pack[keys.images], f"{path}: {keys.images}")
    labels = labels_of(pack[keys.labels], pack[keys.names] if keys.names else None, len(images), str(path))
    keep = _selected(path, pack, where, len(images))
    full = ImageSet(
        images=resize_square(torch.from_numpy(images[keep]).permute(0, 3, 1, 2), size),
        labels=torch.from_numpy(labels.labels[keep]),
        names=labels.names,
        source=" ".join([str(path), *(f"{column}={value}" for column, value in where.items())]),
        notes=_notes(path, keys, read, labels),
    )
    return full.of_classes(full.counts().nonzero().flatten().tolist()) if where else full


class Keys(NamedTuple):
    """What the arrays of a pack are called; no names: None."""

    images: str
    labels: str
    names: str | None


def keys_of(files: list[str], path: Path) -> Keys:
    """Which arrays are images, labels and names, by what they are called.

    Raises:
        UserError: none, or several.
    """
    found = [_one_of(files, known, path) for known in (IMAGES, LABELS, NAMES)]
    for key, known in zip(found[:2], (IMAGES, LABELS), strict=True):
        if key is None:
            raise UserError(f"{path}: no key {known[0]!r} in the pack (or {', '.join(known[1:])}); it has "
                            f"{', '.join(files) or 'none'}")
    return Keys(str(found[0]), str(found[1]), found[2])


def _one_of(files: list[str], known: tuple[str, ...], path: Path) -> str | None:
    found = [name for name in files if name == known[0]] or [name for name in files if name.lower() in known]
    if len(found) > 1:
        raise UserError(f"{path}: {' and '.join(found)} could each be the {known[0]}; keep one or call it {known[0]!r}")
    return found[0] if found else None


def _read(path: Path, columns: tuple[str, ...]) -> tuple[Keys, dict[str, NDArray]]:
    try:
        pack = np.load(path, allow_pickle=False)
        if isinstance(pack, np.ndarray):
            raise UserError(f"{path}: one array without names (.npy), and a pack holds images and labels; save both "
                            "with np.savez")
        with pack:
            keys = keys_of(pack.files, path)
            if missing := [column for column in columns if column not in pack]:
                raise UserError(f"{path}: no key {missing[0]!r} in the pack; it has {', '.join(pack.files)}")
            return keys, {key: _array(pack, key, path) for key in (*keys, *columns) if key is not None}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a .npz pack") from error
    except _DAMAGE as error:
        fault = "its content is none" if "allow_pickle" in str(error) else error
        raise UserError(f"{path}: not a readable .npz pack ({fault})") from error


def _array(pack: Mapping[str, NDArray], key: str, path: Path) -> NDArray:
    try:
        return pack[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise UserError(f"{path}: {key} is an array of Python objects, which are pickled content and never loaded; "
                        f"save it as numbers or text, as np.array({key}.tolist()) makes it") from None


def _notes(path: Path, keys: Keys, read: list[str], labels: Labels) -> tuple[str, ...]:
    called = [f"{key!r} read as {known[0]}" for key, known in zip(keys, (IMAGES, LABELS, NAMES), strict=True)
              if key not in (known[0], None)]
    said = [*called, *read, *labels.notes]
    return (f"{path}: {'; '.join(said)}",) if said else ()


def _selected(path: Path, pack: Mapping[str, NDArray], where: Mapping[str, int], n: int) -> NDArray:
    """``(N,)`` bool."""
    keep = np.ones(n, dtype=bool)
    for column, value in where.items():
        values = pack[column]
        if values.dtype.kind not in "iub" or values.shape != (n,):
            raise UserError(f"{path}: {column} must be one integer an image, got {values.dtype} {values.shape}")
        keep &= values == value
    if not keep.any():
        wanted = " and ".join(f"{column} = {value}" for column, value in where.items())
        raise UserError(f"{path}: no image has {wanted}")
    return keep
