"""Hugging Face datasets from disk: what ``dataset.save_to_disk`` wrote, or a folder of Parquet files. Extra ``hf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from latentprint.data.base import ImageSet
from latentprint.data.pixels import decode, gather, square_rgb
from latentprint.errors import UserError
from latentprint.progress import tracked


def load_hf(path: Path, size: int, image: str = "image", label: str = "label", split: str | None = None) -> ImageSet:
    """The rows of one split; classes are the label's names where it has any, else its values in order.

    Args:
        image, label: columns. split: null where there is but one.

    Raises:
        UserError: ``datasets`` is not installed, or the folder, split or columns are not there.
    """
    rows = _rows(path, split)
    for column in (image, label):
        if column not in rows.column_names:
            raise UserError(f"{path}: no column '{column}'; it has {', '.join(rows.column_names)}")
    values = np.asarray(rows[label])
    known = getattr(rows.features[label], "names", None)
    if known is not None and int(values.min()) < 0:
        raise UserError(f"{path}: column '{label}' has images without a label (-1)")
    found, labels = np.unique(values, return_inverse=True)
    names = tuple(map(str, found)) if known is None else tuple(known[int(value)] for value in found)

    def photo(index: int) -> Image.Image:
        found = rows[index][image]
        if not isinstance(found, Image.Image):
            raise UserError(f"{path}: column '{image}' holds {type(found).__name__}, expected images")
        return found

    source = f"{path}" + (f" ({split})" if split else "")
    shown = tracked(range(len(rows)), "reading photos")
    images, notes = gather((decode(photo(index), size, source) for index in shown), len(rows), size, source,
                           lambda index, white: square_rgb(ImageOps.exif_transpose(photo(index)), size, white, source))
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64).reshape(-1)), names, source, notes=notes)


def _rows(path: Path, split: str | None) -> Any:
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError:
        raise UserError("kind 'hf' needs the package datasets; pip install 'latentprint[hf]'") from None
    if not path.is_dir():
        raise UserError(f"{path}: expected a folder that datasets.save_to_disk wrote, or one of Parquet files")
    try:
        parquet = next(path.glob("**/*.parquet"), None) is not None
        found = load_dataset("parquet", data_dir=str(path)) if parquet else load_from_disk(str(path))
    except Exception as error:  # of many kinds
        raise UserError(f"{path}: not a dataset on disk ({str(error).splitlines()[0]})") from None
    if not isinstance(found, DatasetDict):
        if split is not None:
            raise UserError(f"{path}: split '{split}' is not there; the dataset has no splits, leave it out")
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise UserError(f"{path}: split '{split}' is not there; expected {', '.join(found)}")
    return found[split]
