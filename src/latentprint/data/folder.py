"""A folder of photos, one subfolder for each person."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import torch

from latentprint.data.base import ImageSet
from latentprint.data.pixels import decode_photos
from latentprint.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def load_folder(path: Path, size: int) -> ImageSet:
    """The photos in ``path/PERSON/*``, persons and photos in sorted order, at ``size`` pixels square.

    Hidden entries and files that are not PNG, JPEG, WebP or BMP by name are passed over. A person may have a
    single photo here: whether that is enough is for the split to say.

    Raises:
        UserError: not a folder, no subfolders, a subfolder without photos, or a photo that cannot be read.
    """
    people = sorted(entry for entry in _entries(path) if entry.is_dir())
    if not people:
        raise UserError(f"{path}: no subfolders; expected one for each person, holding that person's photos")
    photos = [_photos(person) for person in people]
    return ImageSet(
        images=decode_photos([photo for each in photos for photo in each], size),
        labels=torch.arange(len(people)).repeat_interleave(torch.tensor([len(each) for each in photos])),
        # File systems disagree on how to write "é": one composed form makes names comparable across folders.
        names=tuple(unicodedata.normalize("NFC", person.name) for person in people),
        source=str(path),
    )


def _photos(person: Path) -> list[Path]:
    photos = sorted(file for file in _entries(person) if file.suffix.lower() in SUFFIXES and file.is_file())
    if not photos:
        raise UserError(f"{person}: no photos of this person ({', '.join(sorted(SUFFIXES))})")
    return photos


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: expected a folder that can be read ({error.strerror})") from error
