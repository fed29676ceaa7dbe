"""From image files and arrays of any size to square RGB bytes of one size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from latentprint.data.room import room
from latentprint.errors import UserError

_SHOW_PROGRESS_FROM = 500
_PAPER = (255, 255, 255)  # what shows through transparent pixels


def decode_photo(path: Path, size: int) -> Tensor:
    """One photo, upright (EXIF orientation), centre-cropped to a square, resized with antialiasing.

    Grey, palette, CMYK and 16-bit grey images become RGB; transparent pixels become white.

    Returns:
        ``(3, size, size)`` uint8.

    Raises:
        UserError: the file is missing, not an image, truncated or damaged.
    """
    try:
        with Image.open(path) as file:
            return square_rgb(ImageOps.exif_transpose(file), size)
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise UserError(f"{path}: not a readable image ({error})") from error


def square_rgb(image: Image.Image, size: int) -> Tensor:
    """An upright picture of any mode, centre-cropped and resized: ``(3, size, size)`` uint8."""
    square = ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def decode_photos(paths: Sequence[Path], size: int) -> Tensor:
    """``(N, 3, size, size)`` uint8 in the order of ``paths``; see :func:`decode_photo`."""
    photos = room((len(paths), 3, size, size))
    few = len(paths) < _SHOW_PROGRESS_FROM
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
        decoded = pool.map(lambda path: decode_photo(path, size), paths)
        console = Console(stderr=True)
        shown = track(decoded, "reading photos", len(paths), console=console, transient=True, disable=few)
        for index, photo in enumerate(shown):
            photos[index] = photo
    return photos


def resize_square(images: Tensor, size: int) -> Tensor:
    """``(N, 3, H, W)`` uint8 centre-cropped to a square and resized with antialiasing to ``size``."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    if side != size:
        square = F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)
    return square.contiguous()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
        image = image.point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, _PAPER)
        image.paste(layer, mask=layer.getchannel("A"))
    return image.convert("RGB")


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(N, 3, H, W)`` float, cut to [0, 1], as sheets want them: ``(N, H, W, 3)`` bytes."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
