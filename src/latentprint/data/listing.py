"""What lies in a folder of photos: photos, folders, and what is passed over and why."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from latentprint.errors import UserError

#: Formats that Pillow names and cannot decode by itself: it would start another program, or needs a handler.
_NO_RASTER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
#: Photos of phones and cameras that Pillow does not read: to pass these over would lose photos.
CAMERA = frozenset({".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"})
#: What file managers and archives leave behind, in small letters; besides everything that begins with a dot.
_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_NAMED = 3


#: Why something is passed over: in words for one, and for several.
Reason = tuple[str, str]
HIDDEN: Reason = ("hidden or system entry", "hidden or system entries")
BROKEN: Reason = ("broken link", "broken links")
LOOP: Reason = ("link to a folder that holds it", "links to folders that hold them")
NO_IMAGE: Reason = ("file that is no image", "files that are no images")
UNREADABLE: Reason = ("photo in a format that cannot be read", "photos in formats that cannot be read")
EMPTY: Reason = ("folder without photos", "folders without photos")
STRAY: Reason = ("photo in no person's folder", "photos in no person's folder")
INSIDE: Reason = ("photo in a folder inside a person's", "photos in folders inside a person's")


def name_of(path: Path) -> str:
    """The name in the composed Unicode form, for file systems differ in how they write "é".

    Bytes that are no UTF-8, as old archives hold them, are written as ``\\xe9``.
    """
    return unicodedata.normalize("NFC", os.fsencode(path.name).decode("utf-8", "backslashreplace"))


def counted(count: int, one: str, several: str) -> str:
    """``1 photo``, ``2 photos``."""
    return f"{count:,} {one if count == 1 else several}"


@cache
def suffixes() -> frozenset[str]:
    """How the names of the images end that Pillow reads, in small letters."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _NO_RASTER)


def is_photo(file: Path) -> bool:
    """Whether it is a file that is named like a photo."""
    return file.suffix.lower() in suffixes() and file.is_file()


@dataclass
class Passed:
    """What was passed over: by reason, what."""

    by_reason: dict[Reason, list[Path]] = field(default_factory=dict)

    def add(self, reason: Reason, *what: Path) -> None:
        if what:
            self.by_reason.setdefault(reason, []).extend(what)

    def __str__(self) -> str:
        """``passed over: 2 files that are no images (.csv, .txt), 1 hidden or system entry``, or nothing."""
        parts = [f"{counted(len(what), *reason)}{_examples(reason, what)}" for reason, what in self.by_reason.items()]
        return f"passed over: {', '.join(parts)}" if parts else ""


def _examples(reason: Reason, what: list[Path]) -> str:
    if reason == HIDDEN:
        return ""
    files = reason in (NO_IMAGE, UNREADABLE)  # whose kind says more than their names
    shown = list(dict.fromkeys((path.suffix.lower() or name_of(path)) if files else name_of(path) for path in what))
    return f" ({', '.join(shown[:_NAMED])}{', ...' if len(shown) > _NAMED else ''})"


@dataclass(frozen=True)
class Contents:
    """A folder's own photos and folders, sorted."""

    photos: list[Path]
    folders: list[Path]


def contents(folder: Path, passed: Passed) -> Contents:
    """What lies in ``folder`` itself; the rest is added to ``passed``.

    Raises:
        UserError: not a folder, or one that cannot be read.
    """
    found = Contents([], [])
    try:
        _sort(sorted(folder.iterdir()), found, passed)
    except OSError as error:
        raise UserError(f"{folder}: expected a folder that can be read ({error.strerror})") from error
    return found


def _sort(entries: list[Path], found: Contents, passed: Passed) -> None:
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
            passed.add(HIDDEN, entry)
        elif entry.is_dir():
            found.folders.append(entry)
        elif is_photo(entry):
            found.photos.append(entry)
        elif entry.is_symlink() and not entry.exists():
            passed.add(BROKEN, entry)
        else:
            passed.add(UNREADABLE if entry.suffix.lower() in CAMERA else NO_IMAGE, entry)


def tree(folder: Path, passed: Passed,
         above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[Path, Contents]]:
    """``folder`` and every folder below it with its contents, in sorted order; links are followed, but not in circles.

    Args:
        above: identities of folders that hold this one, see `identity`.

    Raises:
        UserError: a folder that cannot be read.
    """
    here = contents(folder, passed)
    above = above | {identity(folder)}
    yield folder, here
    for below in here.folders:
        if identity(below) in above:
            passed.add(LOOP, below)
        else:
            yield from tree(below, passed, above)


def files_below(path: Path) -> Iterator[Path]:
    """Every file in a folder and below, hidden ones too; links are followed, but no folder is entered twice."""
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (here := identity(Path(folder))) in seen:
            folders.clear()
            continue
        seen.add(here)
        yield from (Path(folder, name) for name in names)


def identity(folder: Path) -> tuple[int, int]:
    """What all names and links of a folder have in common."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino

