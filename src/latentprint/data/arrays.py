"""Arrays of images and labels in the layouts in which they are usually kept, made into one.

What can mean one thing alone is read, with a note; what can mean two is refused with what to do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentprint.data.values import joint, reading, span_of, to_bytes, white_of
from latentprint.errors import UserError

_CHANNELS = (1, 3, 4)
_AT_ONCE = 1024
_LAYOUTS = "expected (N, H, W), (N, H, W, 3) or (N, 3, H, W)"


class Labels(NamedTuple):
    """One class an image, ``(N,)`` int64 into ``names``, and what was assumed."""

    labels: NDArray[np.int64]
    names: tuple[str, ...]
    notes: list[str]


# ---- images ----


def images_of(array: NDArray, where: str) -> tuple[NDArray[np.uint8], list[str]]:
    """``(N, H, W, 3)`` bytes, and what was assumed.

    Args:
        array: grey ``(N, H, W)``, or with 1, 3 or 4 channels last or first; bytes, whole numbers or floats whose range
            shows what white is. What is transparent becomes white.
        where: begins every message.

    Raises:
        UserError: no images, another shape or type, or one that could mean two things.
    """
    if array.dtype.kind not in "uif":
        raise UserError(f"{where} must be numbers, {_LAYOUTS}; got {array.dtype} {array.shape}")
    if array.size == 0:
        raise UserError(f"{where}: the pack holds no images, its shape is {array.shape}")
    last, notes = _channels_last(array, where)
    white = 255.0
    if last.dtype != np.uint8:
        span = next(iter(joint(span_of(part) for part in _parts(last)).values()))
        white = white_of(span, where)
        notes.append(reading(span, white))
    images = np.empty((*last.shape[:3], 3), np.uint8)
    for first, part in zip(range(0, len(last), _AT_ONCE), _parts(last), strict=True):
        images[first : first + len(part)] = _three(part if last.dtype == np.uint8 else to_bytes(part, white))
    return images, notes


def _parts(array: NDArray) -> Iterator[NDArray]:
    return (array[first : first + _AT_ONCE] for first in range(0, len(array), _AT_ONCE))


def _channels_last(array: NDArray, where: str) -> tuple[NDArray, list[str]]:
    """``(N, H, W, C)`` of the same values."""
    if array.ndim == 3:
        return array[..., None], []
    if array.ndim != 4:
        raise UserError(f"{where}: {_LAYOUTS}; got {array.dtype} {array.shape}")
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    if first and last:
        raise UserError(f"{where}: shape {array.shape} could have its colours first or last; save it with images of "
                        "another width, or as (N, H, W) if it is grey")
    if not first and not last:
        raise UserError(f"{where}: {_LAYOUTS}; got {array.dtype} {array.shape}")
    channels = array.shape[1 if first else 3]
    notes = ["colours come first, (N, C, H, W)"] if first else []
    notes += {1: ["one channel read as grey"], 4: ["the fourth channel read as opacity over white"]}.get(channels, [])
    return (array.transpose(0, 2, 3, 1) if first else array), notes


def _three(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, H, W, 3)`` from 1, 3 or 4 channels."""
    if images.shape[3] < 4:
        return np.broadcast_to(images, (*images.shape[:3], 3))
    opacity = images[..., 3:].astype(np.float32) / 255
    over: NDArray[np.uint8] = np.rint(images[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return over


# ---- labels ----


def labels_of(array: NDArray, names: NDArray | None, n: int, where: str) -> Labels:
    """One class an image.

    Args:
        array: one whole number or text an image, ``(N,)`` or ``(N, 1)``, or ``(N, C)`` with a single 1 in each row.
            Numbers count the names from 0, or from 1 where they use each from 1 to the last.
        names: the classes; None: the labels themselves are their names.
        n: how many images there are.
        where: begins every message.

    Raises:
        UserError: another shape or type, negative labels, or labels that are not among the names.
    """
    known = None if names is None else _texts(names, where)
    flat, notes = _column(array, n, where)
    if flat.dtype.kind in "SU":
        return _by_name(_texts(flat, where, "labels"), known, where, notes)
    numbers = _whole(flat, where)
    _refuse(numbers < 0, numbers, where, "are negative: leave these images out, or keep others with 'where'")
    if known is None:
        found, labels = np.unique(numbers, return_inverse=True)
        notes.append(f"no class_names, so the people are called by their labels, {_few(found)}")
        return Labels(labels.reshape(-1).astype(np.int64), tuple(map(str, found)), notes)
    if len(known) and np.array_equal(np.unique(numbers), np.arange(1, len(known) + 1)):
        notes.append(f"labels from 1 to {len(known)} count the {len(known)} class_names from 1")
        numbers = numbers - 1
    _refuse(numbers >= len(known), numbers, where,
            f"are beyond the {len(known)} class_names, which are counted from 0; give a name for each label")
    return Labels(numbers, known, notes)


def _column(array: NDArray, n: int, where: str) -> tuple[NDArray, list[str]]:
    if array.shape == (n,):
        return array, []
    if array.shape == (n, 1):
        return array[:, 0], ["labels are one column"]
    if array.ndim == 2 and len(array) == n and array.dtype.kind in "uifb" and (
            ((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()):
        return array.argmax(1), ["labels are rows with a single 1, whose place is the class"]
    raise UserError(f"{where}: labels must be one integer or text an image, ({n},), got {array.dtype} {array.shape}")


def _whole(array: NDArray, where: str) -> NDArray[np.int64]:
    if array.dtype.kind not in "iufb":
        raise UserError(f"{where}: labels must be one integer or text an image, got {array.dtype}")
    if array.dtype.kind == "f":
        _refuse(~np.isfinite(array) | (array != np.rint(array)), array, where,
                "are no whole numbers; labels must be one integer an image")
    whole: NDArray[np.int64] = array.astype(np.int64)
    return whole


def _by_name(labels: tuple[str, ...], known: tuple[str, ...] | None, where: str, notes: list[str]) -> Labels:
    names = tuple(sorted(set(labels))) if known is None else known
    notes = [*notes, "labels are the people's names" + ("" if known else ", which are in alphabetical order")]
    place = {name: index for index, name in enumerate(names)}
    unknown = np.array([label not in place for label in labels])
    _refuse(unknown, np.array(labels), where, "are not among the class_names")
    return Labels(np.array([place[label] for label in labels], np.int64), names, notes)


def _texts(array: NDArray, where: str, what: str = "class_names") -> tuple[str, ...]:
    """A list of texts, composed; numbers are written out."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "SUiu":
        raise UserError(f"{where}: {what} must be a list of texts, got {array.dtype} {array.shape}")
    decoded = np.char.decode(array, errors="replace") if array.dtype.kind == "S" else array
    return tuple(unicodedata.normalize("NFC", str(text)) for text in decoded.tolist())


def _refuse(wrong: NDArray, values: NDArray, where: str, why: str) -> None:
    """Raise when any row is wrong, with the first rows and values."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = ", ".join(str(value) for value in dict.fromkeys(values[rows].tolist()[:1000]))
        raise UserError(f"{where}: labels of {len(rows)} of {len(values)} images (row {_few(rows)}: {shown[:60]}) "
                        f"{why}")


def _few(values: NDArray) -> str:
    shown = ", ".join(map(str, values[:3].tolist()))
    return shown + (f", ... {values[-1]}" if len(values) > 3 else "")
