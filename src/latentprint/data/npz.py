"""Image packs: one ``.npz`` file with ``images``, ``labels``, ``class_names`` and further columns.

Packs are read with ``allow_pickle=False``: a file from elsewhere cannot run code here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from latentprint.data.base import ImageSet
from latentprint.data.pixels import resize_square
from latentprint.errors import UserError

EVERYTHING: Mapping[str, int] = MappingProxyType({})
_DAMAGE = (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


def load_npz(path: Path, size: int, where: Mapping[str, int] = EVERYTHING) -> ImageSet:
    """A pack's images, centre-cropped to a square and resized with antialiasing.

    Args:
        path: a file with ``images`` uint8 ``(N, H, W)`` or ``(N, H, W, 3)``, ``labels`` integer ``(N,)`` and
            ``class_names`` text ``(C,)``.
        size: height and width in pixels.
        where: keep the images whose column has this value, ``{"split": 0}``; classes left without images go.

    Raises:
        UserError: missing or damaged file, pickled content, missing key, wrong type or shape, nothing left.
    """
    pack = _read(path, ("images", "labels", "class_names", *where))
    images, labels, names = _images(path, pack), pack["labels"], pack["class_names"]
    _expect(path, "labels", labels, "one integer an image", "iu", len(images))
    _expect(path, "class_names", names, "a list of texts", "SU", names.size)
    keep = _selected(path, pack, where, len(images))
    full = ImageSet(
        images=resize_square(torch.from_numpy(images[keep]).permute(0, 3, 1, 2), size),
        labels=torch.from_numpy(labels[keep].astype(np.int64)),
        names=tuple(map(str, np.char.decode(names, errors="replace") if names.dtype.kind == "S" else names)),
        source=" ".join([str(path), *(f"{column}={value}" for column, value in where.items())]),
    )
    return full.of_classes(full.counts().nonzero().flatten().tolist()) if where else full


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as pack:
            missing = [key for key in keys if key not in pack]
            if missing:
                has = ", ".join(pack.files) or "none"
                raise UserError(f"{path}: no key {missing[0]!r} in the pack; it has {has}")
            return {key: pack[key] for key in keys}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a .npz pack") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: not a readable .npz pack without pickled content ({error})") from error


def _images(path: Path, pack: Mapping[str, NDArray]) -> NDArray:
    """``(N, H, W, 3)`` uint8."""
    images = pack["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        got = f"{images.dtype} {images.shape}"
        raise UserError(f"{path}: images must be uint8 (N, H, W) or (N, H, W, 3), got {got}")
    if images.size == 0:
        raise UserError(f"{path}: the pack holds no images, its shape is {images.shape}")
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def _selected(path: Path, pack: Mapping[str, NDArray], where: Mapping[str, int], n: int) -> NDArray:
    """``(N,)`` bool."""
    keep = np.ones(n, dtype=bool)
    for column, value in where.items():
        values = pack[column]
        _expect(path, column, values, "one integer an image", "iub", n)
        keep &= values == value
    if not keep.any():
        wanted = " and ".join(f"{column} = {value}" for column, value in where.items())
        raise UserError(f"{path}: no image has {wanted}")
    return keep


def _expect(path: Path, key: str, array: NDArray, what: str, kinds: str, length: int) -> None:
    """Raise unless ``array`` is ``(length,)`` and of one of the dtype ``kinds``."""
    if array.dtype.kind not in kinds or array.shape != (length,):
        raise UserError(f"{path}: {key} must be {what}, got {array.dtype} {array.shape}")
