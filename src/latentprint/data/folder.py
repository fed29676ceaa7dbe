"""Folders of photos in the layouts in which face sets are published. Listing is cheap; decoding is parallel."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from latentprint.data.base import ImageSet
from latentprint.data.pixels import decode_photos
from latentprint.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def load_folder(path: Path, size: int, min_photos: int = 1, max_people: int | None = None) -> ImageSet:
    """The photos in ``path/PERSON/*``, persons and photos in sorted order, at ``size`` pixels square.

    Hidden entries and files that are not PNG, JPEG, WebP or BMP by name are passed over. A person may have a
    single photo here: whether that is enough is for the split to say. ImageFolder, LFW and most others lie like this.

    Args:
        min_photos: people with fewer are left out. max_people: at most so many, the first.

    Raises:
        UserError: not a folder, no subfolders, a subfolder without photos, nobody left, or a photo that cannot be read.
    """
    people = sorted(entry for entry in _entries(path) if entry.is_dir())
    if not people:
        raise UserError(f"{path}: no subfolders; expected one for each person, holding that person's photos")
    photos = [_photos(person) for person in people]
    for person, own in zip(people, photos, strict=True):
        if not own:
            raise UserError(f"{person}: no photos of this person ({', '.join(sorted(SUFFIXES))})")
    return _of_people(path, people, photos, size, min_photos, max_people)


def load_nested(path: Path, size: int, min_photos: int = 1, max_people: int | None = None) -> ImageSet:
    """People are the folders, at any depth, that hold photos themselves, by their own name (as FaceScrub lies).

    Raises:
        UserError: nobody there or left, two folders of one name, or a photo that cannot be read.
    """
    people = sorted(folder for folder in below(path) if folder.is_dir() and _photos(folder))
    names = [_name(person) for person in people]
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise UserError(f"{path}: two folders are called '{min(twice)}'; people need different names")
    if not people:
        raise UserError(f"{path}: no folders with photos in them; expected one for each person, at any depth")
    return _of_people(path, people, [_photos(person) for person in people], size, min_photos, max_people)


def load_flat(path: Path, size: int, first: int = 0, count: int | None = None) -> ImageSet:
    """Photos of whom nobody knows who it is, in ``path`` and below, each a person of its own (as FFHQ lies).

    Args:
        first, count: of the sorted photos.

    Raises:
        UserError: none there, or one that cannot be read.
    """
    photos = [photo for photo in sorted(below(path)) if is_photo(photo)][first:][:count]
    if not photos:
        raise UserError(f"{path}: no photos ({', '.join(sorted(SUFFIXES))}) there or below, from number {first} on")
    names = tuple(unicodedata.normalize("NFC", photo.relative_to(path).as_posix()) for photo in photos)
    return ImageSet(decode_photos(photos, size), torch.arange(len(photos)), names, str(path))


def load_tiny_imagenet(path: Path, size: int, train: bool = True) -> ImageSet:
    """Tiny-ImageNet (200 classes, 64 px) from its unpacked folder, classes named by their WordNet ids.

    Args:
        train: ``train/*/images``, or else ``val`` by its annotation file.

    Raises:
        UserError: a folder or the annotation is missing, or it names an unknown class.
    """
    classes = sorted(entry.name for entry in _entries(path / "train") if entry.is_dir())
    if train:
        photos = [_photos(path / "train" / name / "images") for name in classes]
        return _of_people(path, [path / "train" / name for name in classes], photos, size, 1, None)
    annotation = path / "val" / "val_annotations.txt"
    if not annotation.is_file():
        raise UserError(f"{annotation}: missing; it says which class a validation image has")
    rows = [line.split("\t")[:2] for line in annotation.read_text().splitlines() if line.strip()]
    if unknown := [row for row in rows if len(row) != 2 or row[1] not in classes]:
        raise UserError(f"{annotation}: '{' '.join(unknown[0])}' is not an image and one of the {len(classes)} classes")
    labels = torch.tensor([classes.index(name) for _, name in rows])
    files = [path / "val" / "images" / file for file, _ in rows]
    return ImageSet(decode_photos(files, size), labels, tuple(classes), f"{path} (val)")


def _of_people(path: Path, people: Sequence[Path], photos: Sequence[list[Path]], size: int, min_photos: int,
               max_people: int | None) -> ImageSet:
    enough = [(person, own) for person, own in zip(people, photos, strict=True) if len(own) >= max(1, min_photos)]
    enough = enough[:max_people]
    if not enough:
        most = max(map(len, photos), default=0)
        raise UserError(f"{path}: nobody has min_photos = {min_photos} photos; the most is {most}")
    return ImageSet(
        images=decode_photos([photo for _, own in enough for photo in own], size),
        labels=torch.arange(len(enough)).repeat_interleave(torch.tensor([len(own) for _, own in enough])),
        names=tuple(_name(person) for person, _ in enough),
        source=str(path),
    )


def _name(person: Path) -> str:
    # File systems disagree on how to write "é": one composed form makes names comparable across folders.
    return unicodedata.normalize("NFC", person.name)


def _photos(person: Path) -> list[Path]:
    return sorted(file for file in _entries(person) if is_photo(file))


def is_photo(file: Path) -> bool:
    """Whether it is a file that is named like a photo."""
    return file.suffix.lower() in SUFFIXES and file.is_file()


def below(path: Path) -> list[Path]:
    """Everything in a folder and its folders that is not hidden."""
    found: list[Path] = []
    for entry in _entries(path):
        found += [entry, *(below(entry) if entry.is_dir() else ())]
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: expected a folder that can be read ({error.strerror})") from error
