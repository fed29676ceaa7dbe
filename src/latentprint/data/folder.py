"""Folders of photos in the layouts in which face sets are published. Listing is cheap; decoding is parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from latentprint.data.base import ImageSet
from latentprint.data.listing import (
    EMPTY,
    INSIDE,
    STRAY,
    UNREADABLE,
    Contents,
    Passed,
    contents,
    counted,
    identity,
    name_of,
    tree,
)
from latentprint.data.pixels import read_photos
from latentprint.errors import UserError

_EXPECTED = "expected one folder for each person, holding that person's photos"


def load_folder(path: Path, size: int, min_photos: int = 1, max_people: int | None = None) -> ImageSet:
    """The photos in ``path/PERSON/*``, people and photos in sorted order, at ``size`` pixels square.

    Every format that Pillow decodes is read; what is passed over is counted in the notes. Where the people lie one
    folder deeper, in a single one, that folder is read. A person may have a single photo here: whether that is enough
    is for the split to say. ImageFolder, LFW and most others lie like this.

    Args:
        min_photos: people with fewer are left out. max_people: at most so many, the first.

    Raises:
        UserError: not a folder, no photos in its subfolders, a person whose photos lie deeper or are of a format that
            cannot be read, nobody left, or a photo that cannot be read.
    """
    passed = Passed()
    here, above = contents(path, passed), frozenset({identity(path)})
    inside = {folder: dict(tree(folder, passed, above)) for folder in here.folders}
    if not any(found[folder].photos for folder, found in inside.items()):
        deeper = _only_holder(path, here, inside, passed)
        read = load_folder(deeper, size, min_photos, max_people)
        return replace(read, notes=(f"{path}: no photos in its folders; the people are read from {deeper}",
                                    *read.notes))
    passed.add(STRAY, *here.photos)
    people = []
    for folder, found in inside.items():
        below = [photo for each, own in found.items() if each != folder for photo in own.photos]
        if found[folder].photos:
            people.append((folder, found[folder].photos))
            passed.add(INSIDE, *below)
        elif below:
            raise UserError(f"{folder}: no photos in this folder, but {_photos(len(below))} in folders below it, as "
                            f"{below[0].parent}; put them into {folder}, or take kind: nested, where every folder "
                            "with photos is a person")
        else:
            _refuse_unreadable(folder, passed)
            passed.add(EMPTY, folder)
    return _of_people(path, people, size, min_photos, max_people, passed)


def _only_holder(path: Path, here: Contents, inside: Mapping[Path, Mapping[Path, Contents]], passed: Passed) -> Path:
    """The one folder in ``path`` that has photos somewhere below it, where none has photos itself."""
    holders = [folder for folder, found in inside.items() if any(own.photos for own in found.values())]
    if len(holders) == 1:
        return holders[0]
    if holders:
        raise UserError(f"{path}: no photos in its folders, but in theirs; give one of them as path, as {holders[0]}, "
                        "or take kind: nested, where every folder with photos is a person")
    if here.photos:
        raise UserError(f"{path}: no subfolders with photos, but {_photos(len(here.photos))} in the folder itself; "
                        f"{_EXPECTED}. If they are all of one person, give the folder above; kind: flat takes each "
                        "photo as a person of its own")
    if not here.folders:
        raise UserError(f"{path}: no subfolders; {_EXPECTED}{_aside(passed)}")
    for folder in here.folders:
        _refuse_unreadable(folder, passed)
    many = counted(len(here.folders), "folder", "folders")
    raise UserError(f"{path}: no photos in its {many}; {_EXPECTED}{_aside(passed)}")


def _aside(passed: Passed) -> str:
    return f" ({passed})" if str(passed) else ""


def _refuse_unreadable(folder: Path, passed: Passed) -> None:
    lost = [file for file in passed.by_reason.get(UNREADABLE, ()) if file.parent == folder]
    if lost:
        raise UserError(f"{folder}: only {_photos(len(lost))} in a format that cannot be read here "
                        f"({lost[0].suffix}); convert to JPEG or PNG")


def load_nested(path: Path, size: int, min_photos: int = 1, max_people: int | None = None) -> ImageSet:
    """People are the folders, at any depth, that hold photos themselves, by their own name (as FaceScrub lies).

    Raises:
        UserError: nobody there or left, two folders of one name, or a photo that cannot be read.
    """
    passed = Passed()
    (_, here), *below = tree(path, passed)
    people = sorted((folder, own.photos) for folder, own in below if own.photos)
    if not people:
        raise UserError(f"{path}: no folders with photos in them; expected one for each person, at any depth"
                        f"{_aside(passed)}")
    passed.add(STRAY, *here.photos)
    for folder, own in below:
        if not own.photos and not own.folders:
            _refuse_unreadable(folder, passed)
            passed.add(EMPTY, folder)
    return _of_people(path, people, size, min_photos, max_people, passed)


def load_flat(path: Path, size: int, first: int = 0, count: int | None = None) -> ImageSet:
    """Photos of whom nobody knows who it is, in ``path`` and below, each a person of its own (as FFHQ lies).

    Args:
        first, count: of the sorted photos.

    Raises:
        UserError: none there, or one that cannot be read.
    """
    passed = Passed()
    found = sorted(photo for _, own in tree(path, passed) for photo in own.photos)
    photos = found[first:][:count]
    if not photos:
        raise UserError(f"{path}: no photos there or below, from number {first} on (there are {len(found)})"
                        f"{_aside(passed)}")
    names = tuple("/".join(name_of(Path(part)) for part in photo.relative_to(path).parts) for photo in photos)
    images, notes = read_photos(photos, size, str(path))
    return ImageSet(images, torch.arange(len(photos)), names, str(path),
                    notes=(*_said(f"{path}: {_photos(len(photos))} of {len(found):,} read", [passed]), *notes))


def load_tiny_imagenet(path: Path, size: int, train: bool = True) -> ImageSet:
    """Tiny-ImageNet (200 classes, 64 px) from its unpacked folder, classes named by their WordNet ids.

    Args:
        train: ``train/*/images``, or else ``val`` by its annotation file.

    Raises:
        UserError: a folder or the annotation is missing, or it names an unknown class.
    """
    folders, passed = contents(path / "train", Passed()).folders, Passed()
    classes = [folder.name for folder in folders]
    if train:
        return _of_people(path, [(folder, contents(folder / "images", passed).photos) for folder in folders], size,
                          passed=passed)
    annotation = path / "val" / "val_annotations.txt"
    if not annotation.is_file():
        raise UserError(f"{annotation}: missing; it says which class a validation image has")
    rows = [line.split("\t")[:2] for line in annotation.read_text().splitlines() if line.strip()]
    if unknown := [row for row in rows if len(row) != 2 or row[1] not in classes]:
        raise UserError(f"{annotation}: '{' '.join(unknown[0])}' is not an image and one of the {len(classes)} classes")
    labels = torch.tensor([classes.index(name) for _, name in rows])
    files = [path / "val" / "images" / file for file, _ in rows]
    images, notes = read_photos(files, size, f"{path} (val)")
    return ImageSet(images, labels, tuple(classes), f"{path} (val)", notes=notes)


def _of_people(path: Path, people: Sequence[tuple[Path, list[Path]]], size: int, min_photos: int = 1,
               max_people: int | None = None, passed: Passed | None = None) -> ImageSet:
    enough = [(person, own) for person, own in people if len(own) >= max(1, min_photos)]
    few, kept = len(people) - len(enough), enough[:max_people]
    if not kept:
        most = max((len(own) for _, own in people), default=0)
        raise UserError(f"{path}: nobody has min_photos = {min_photos} photos; the most is {most}")
    names = [name_of(person) for person, _ in kept]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        both = [person for person, _ in kept if name_of(person) == twice]
        forms = ", in two Unicode forms" if both[0].name != both[1].name else f" ({both[0]}, {both[1]})"
        raise UserError(f"{path}: two folders are called '{twice}'{forms}; people need different names: rename one, or "
                        "merge them if they are one person")
    photos = [photo for _, own in kept for photo in own]
    images, notes = read_photos(photos, size, str(path))
    read = f"{path}: {_photos(len(photos))} of {_people(len(kept))} read"
    left_out = [f"left out: {_people(few)} with fewer than min_photos = {min_photos} photos" if few else "",
                f"left out: {_people(len(enough) - len(kept))} beyond max_people = {max_people}"
                if len(enough) > len(kept) else ""]
    return ImageSet(
        images=images,
        labels=torch.arange(len(kept)).repeat_interleave(torch.tensor([len(own) for _, own in kept])),
        names=tuple(names),
        source=str(path),
        notes=(*_said(read, [passed or "", *left_out]), *notes),
    )


def _said(read: str, others: Sequence[Passed | str]) -> tuple[str, ...]:
    """One sentence on what was read, where anything was not."""
    words = [word for word in map(str, others) if word]
    return ("; ".join([read, *words]),) if words else ()


def _photos(count: int) -> str:
    return counted(count, "photo", "photos")


def _people(count: int) -> str:
    return counted(count, "person", "people")

