"""From image files and arrays of any size to square RGB bytes of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from latentprint.data.listing import counted
from latentprint.data.room import room
from latentprint.data.values import Span, joint, reading, span_of, to_bytes, white_of, whites
from latentprint.errors import UserError
from latentprint.progress import tracked

_PAPER = (255, 255, 255)  # what shows through transparent pixels
_HOLD = {True: ("photo holds whole numbers beyond bytes", "photos hold whole numbers beyond bytes"),
         False: ("photo holds floats", "photos hold floats")}
_STACKS = ("GIF", "PNG", "TIFF", "WEBP", "AVIF")  # formats that hold several images, none of them a mere preview


class Decoded(NamedTuple):
    """One photo, or the span of its values when they are not bytes and others decide how they are read."""

    pixels: Tensor | None
    span: Span | None
    stacked: bool


def decode_photo(path: Path, size: int, white: Mapping[bool, float] | None = None) -> Tensor:
    """One photo, upright (EXIF orientation), centre-cropped to a square, resized with antialiasing.

    Grey, palette, CMYK, 16-bit and float images become RGB; transparent pixels become white. Of an animation or a
    stack the first image is taken.

    Args:
        white: the value that means white, of whole numbers beyond bytes (True) and of floats (False); None: what the
            photo's own values say.

    Returns:
        ``(3, size, size)`` uint8.

    Raises:
        UserError: the file is missing, not an image, truncated or damaged, or its values could mean two things.
    """
    with _opened(path) as file:
        return square_rgb(ImageOps.exif_transpose(file), size, white, str(path))


def square_rgb(image: Image.Image, size: int, white: Mapping[bool, float] | None = None,
               where: str = "image") -> Tensor:
    """An upright image of any mode, centre-cropped and resized: ``(3, size, size)`` uint8."""
    square = ImageOps.fit(as_rgb(image, white, where), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def decode_photos(paths: Sequence[Path], size: int) -> Tensor:
    """``(N, 3, size, size)`` uint8 in the order of ``paths``; see :func:`read_photos`."""
    return read_photos(paths, size, "photos")[0]


def read_photos(paths: Sequence[Path], size: int, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """The photos, and one sentence for each choice that was made in reading them.

    What 16-bit and float values mean is decided once for all photos, by their common range.

    Args:
        where: begins the sentences.

    Returns:
        ``(N, 3, size, size)`` uint8 in the order of ``paths``, and the sentences.

    Raises:
        UserError: see :func:`decode_photo`.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
        decoded = tracked(pool.map(lambda path: _decoded(path, size), paths), "reading photos", total=len(paths))
        return gather(decoded, len(paths), size, where, lambda index, white: decode_photo(paths[index], size, white))


def gather(decoded: Iterable[Decoded], count: int, size: int, where: str,
           again: Callable[[int, Mapping[bool, float]], Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """See :func:`read_photos`.

    Args:
        decoded: the photos in order. again: decodes one whose pixels were left out, now that white is known.
    """
    photos, deep, stacked = room((count, 3, size, size)), dict[int, Span](), 0
    for index, each in enumerate(decoded):
        stacked += each.stacked
        if each.pixels is not None:
            photos[index] = each.pixels
        elif each.span is not None:
            deep[index] = each.span
    spans = joint(deep.values())
    white = whites(spans, where)
    for index in deep:
        photos[index] = again(index, white)
    notes = [f"{where}: {counted(sum(each.whole == whole for each in deep.values()), *_HOLD[whole])}; "
             f"{reading(span, white[whole])}" for whole, span in spans.items()]
    if stacked:
        notes.append(f"{where}: {counted(stacked, 'file holds', 'files hold')} several images; the first is taken")
    return photos, tuple(notes)


def decode(file: Image.Image, size: int, where: str) -> Decoded:
    """An image as opened, or the span of its values where they are not bytes."""
    stacked = file.format in _STACKS and getattr(file, "is_animated", False)
    image = ImageOps.exif_transpose(file)
    span = span_of(np.asarray(image)) if is_deep(image) else None
    return Decoded(square_rgb(image, size, None, where) if span is None else None, span, stacked)


def _decoded(path: Path, size: int) -> Decoded:
    with _opened(path) as file:
        return decode(file, size, str(path))


def whites_among(paths: Iterable[Path], where: str) -> dict[bool, float]:
    """What white is in those photos whose values are not bytes, for :func:`read_upright`."""
    spans = []
    for path in paths:
        with _opened(path) as file:
            if is_deep(file):
                spans.append(span_of(np.asarray(file)))
    return whites(joint(spans), where)


def read_upright(path: Path, white: Mapping[bool, float]) -> NDArray[np.uint8]:
    """One photo, upright, in its own size: ``(H, W, 3)``."""
    with _opened(path) as file:
        return np.asarray(as_rgb(ImageOps.exif_transpose(file), white, str(path)))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow opens it; what fails while it is in use becomes a UserError that names it."""
    try:
        with Image.open(path) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise UserError(f"{path}: not a readable image ({_fault(path, error)}); replace or delete it") from error


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a file, from its first bytes where they say more than the decoder."""
    try:
        start = path.open("rb").read(64).lstrip().lower()
    except OSError:
        return str(error)
    if not start:
        return "the file is empty"
    if start.startswith((b"<html", b"<!doctype")):
        return "the file is a web page"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"heim"):
        return "the file is HEIC, whatever it is called; convert it to JPEG or PNG"
    return "its content is of no known image format" if isinstance(error, UnidentifiedImageError) else str(error)


def resize_square(images: Tensor, size: int) -> Tensor:
    """``(N, 3, H, W)`` uint8 centre-cropped to a square and resized with antialiasing to ``size``."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    if side != size:
        square = F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)
    return square.contiguous()


def is_deep(image: Image.Image) -> bool:
    """Whether the values are not bytes: 16-bit or 32-bit whole numbers, or floats."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def as_rgb(image: Image.Image, white: Mapping[bool, float] | None = None, where: str = "image") -> Image.Image:
    """The image as RGB bytes; see :func:`decode_photo`."""
    if is_deep(image):
        pixels = np.asarray(image)
        span = span_of(pixels)
        image = Image.fromarray(to_bytes(pixels, white_of(span, where) if white is None else white[span.whole]))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, _PAPER)
        image.paste(layer, mask=layer.getchannel("A"))
    return image.convert("RGB")


def as_floats(images: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(N, 3, H, W)`` float, cut to [0, 1], as sheets want them: ``(N, H, W, 3)`` bytes."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
