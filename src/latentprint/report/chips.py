"""The picture of framing: photos with what was found in them, and the crops that recognisers are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from latentprint.report.sheets import picture_table
from latentprint.report.style import GREEN, PALETTE, RED

Images = NDArray[np.uint8]
#: Pixels a side of every picture on the sheet, of the dots and lines on it.
SIDE, DOT, LINE = 144, 3, 2
#: A colour for each recogniser; dots are green, red where no face is found.
COLOURS = tuple(colour for colour in PALETTE if colour not in (GREEN, RED))


@dataclass(frozen=True)
class Framed:
    """Some pictures of a set.

    Attributes:
        images: ``(n, H, W, 3)``. points: ``(n, K, 2)`` found, as shares of the picture. seen: n, whether there is a
            face. chips: by recogniser ``(n, h, w, 3)``, what it is given. corners: by recogniser ``(n, 4, 2)``, where
            that lies in the picture.
    """

    images: Images
    points: NDArray[np.float32]
    seen: Sequence[bool]
    chips: Mapping[str, Images]
    corners: Mapping[str, NDArray[np.float32]]


def framing_sheet(sets: Mapping[str, Framed], path: Path) -> None:
    """A row of each set's photos with dots and crops drawn, and below it a row for each recogniser's crops.

    Args:
        sets: by name; as many pictures of each, or fewer, and the same recognisers.
        path: the PNG to write.

    Raises:
        ValueError: no sets.
    """
    most = max((len(each.images) for each in sets.values()), default=0)
    rows: dict[str, Images] = {}
    for name, each in sets.items():
        rows[name] = _filled([_marked(each, i) for i in range(len(each.images))], most)
        for index, (recogniser, chips) in enumerate(each.chips.items()):
            edged = [_edged(_sized(chip), COLOURS[index % len(COLOURS)]) for chip in chips]
            rows[f"{recogniser}: {name}"] = _filled(edged, most)
    picture_table(rows, path, across=True)


def _marked(framed: Framed, i: int) -> Images:
    image = Image.fromarray(_sized(framed.images[i]))
    draw = ImageDraw.Draw(image)
    for index, corners in enumerate(framed.corners.values()):
        outline = [(float(x) * SIDE, float(y) * SIDE) for x, y in corners[i]]
        draw.line([*outline, outline[0]], fill=COLOURS[index % len(COLOURS)], width=LINE)
    for x, y in framed.points[i] * SIDE:
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=GREEN if framed.seen[i] else RED)
    return np.asarray(image)


def _edged(image: Images, colour: str) -> Images:
    shown = Image.fromarray(image)
    ImageDraw.Draw(shown).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=colour, width=LINE)
    return np.asarray(shown)


def _sized(image: Images) -> Images:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _filled(images: Sequence[Images], count: int) -> Images:
    """Stacked, with white pictures for those that are missing."""
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    return np.stack([*images, *[blank] * (count - len(images))])
