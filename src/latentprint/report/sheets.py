"""Contact sheets: faces at whole multiples of their pixels, so that what is shown is what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from latentprint.report.style import DPI, GREEN, INK, RED, canvas

Images = NDArray[np.uint8]
Align = Literal["left", "center", "right"]
FACE = 128  # pixels a face should at least have on the sheet
GAP, HEAD, FOOT, BETWEEN = 6, 30, 48, 40  # pixels: between one's faces, headings, captions, between people
CAPTION = 20  # pixels of a line under a picture of a table
SIDE, WIDEST = 120, 260  # pixels beside the rows of a table, for their headings: at least and at most
LETTER = 10  # pixels of a letter of them
MARGIN = 4
TITLES = ("real photo", "attribute image", "reconstruction")
PEOPLE_PER_ROW = 3


def face_grid(real: Images, attribute: Images, reconstruction: Images, labels: Sequence[str],
              scores: Sequence[float], matched: Sequence[bool | None], path: Path) -> None:
    """Per person a block *real | attribute | reconstruction* with name, match score and a check or cross.

    Args:
        real, attribute, reconstruction: ``(n, H, W, 3)`` uint8, row i the same person in all three.
        labels: n names.
        scores: n similarities by the judge; NaN shows as a dash.
        matched: n decisions of the judge; None where it has no threshold to decide by.
        path: the PNG to write.

    Raises:
        ValueError: arrays that are not uint8 ``(n, H, W, 3)`` of one shape, or lists of another length.
    """
    stacks = [_checked(images, real.shape) for images in (real, attribute, reconstruction)]
    n, height, width = real.shape[:3]
    if not n or not len(labels) == len(scores) == len(matched) == n:
        raise ValueError(f"face_grid needs people, and a label, a score and a decision for each of the {n}")
    zoom = _zoom(height)
    columns = min(n, PEOPLE_PER_ROW)
    block_w, block_h = 3 * width * zoom + 2 * GAP, height * zoom + FOOT
    sheet = _Sheet(columns * (block_w + BETWEEN) - BETWEEN, HEAD + -(-n // columns) * block_h)
    with canvas(path, *sheet.inches) as figure:
        for index in range(n):
            left, top = (index % columns) * (block_w + BETWEEN), HEAD + (index // columns) * block_h
            for place, images in enumerate(stacks):
                x = left + place * (width * zoom + GAP)
                sheet.image(figure, _enlarged(images[index], zoom), x, top)
                if index < columns:
                    sheet.text(figure, x + width * zoom / 2, HEAD - 10, TITLES[place], 14, "center")
            color = INK if matched[index] is None else GREEN if matched[index] else RED
            sheet.frame(figure, x, top, width * zoom, height * zoom, color)
            base = top + height * zoom + 22
            sheet.text(figure, left, base, _short(labels[index], 2 * width * zoom), 16, "left")
            outcome = _outcome(scores[index], matched[index])
            sheet.text(figure, left + block_w, base, outcome, 17, "right", color)


def samples_strip(samples: Mapping[int, Images], path: Path) -> None:
    """The same people drawn at several steps of training: a row a person, a column a step.

    Args:
        samples: ``(n, H, W, 3)`` uint8 images by step, all of one shape.
        path: the PNG to write.

    Raises:
        ValueError: no samples, or arrays of differing shape or type.
    """
    if not samples:
        raise ValueError("samples_strip needs at least one step")
    steps = sorted(samples)
    picture_table({f"{step:,}" if i else f"step {step:,}": samples[step] for i, step in enumerate(steps)}, path)


def picture_table(columns: Mapping[str, Images], path: Path,
                  captions: Mapping[str, Sequence[str]] | None = None, across: bool = False) -> None:
    """The same things in several versions: a row a thing, a column a version; ``across``, the other way round.

    Args:
        columns: ``(n, H, W, 3)`` uint8 images by heading, all of one shape.
        path: the PNG to write.
        captions: by heading, n short lines under the pictures.

    Raises:
        ValueError: no columns, arrays of differing shape or type, or another number of captions.
    """
    if not columns:
        raise ValueError("picture_table needs at least one column")
    shape = next(iter(columns.values())).shape
    stacks = {heading: _checked(images, shape) for heading, images in columns.items()}
    n, height, width = shape[:3]
    lines = captions or {}
    if any(len(lines[heading]) != n for heading in lines):
        raise ValueError(f"picture_table needs a caption for each of the {n} pictures of a column")
    zoom = _zoom(height, 96)
    cell = (width * zoom + GAP, height * zoom + GAP + (CAPTION if lines else 0))
    side = min(WIDEST, max(SIDE, 12 + LETTER * max(map(len, stacks))))
    versions, left, head = len(stacks), side if across else 0, 0 if across else HEAD
    wide, high = (n, versions) if across else (versions, n)
    sheet = _Sheet(left + wide * cell[0] - GAP, head + high * cell[1] - GAP)
    with canvas(path, *sheet.inches) as figure:
        for version, (heading, images) in enumerate(stacks.items()):
            if across:
                middle = version * cell[1] + height * zoom / 2 + 5
                sheet.text(figure, left - 12, middle, _short(heading, side - 12), 14, "right")
            else:
                sheet.text(figure, version * cell[0] + width * zoom / 2, HEAD - 10, _short(heading, width * zoom + 20),
                           14, "center")
            for thing in range(n):
                column, row = (thing, version) if across else (version, thing)
                x, top = left + column * cell[0], head + row * cell[1]
                sheet.image(figure, _enlarged(images[thing], zoom), x, top)
                if heading in lines:
                    base = top + height * zoom + CAPTION - 6
                    sheet.text(figure, x + width * zoom / 2, base, lines[heading][thing], 12, "center")


class _Sheet:
    """A canvas counted in pixels from the top left of its content; a margin around it holds the frames."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width + 2 * MARGIN, height + 2 * MARGIN

    @property
    def inches(self) -> tuple[float, float]:
        return self.width / DPI, self.height / DPI

    def image(self, figure: Figure, image: Images, x: int, y: int) -> None:
        """``image`` pixel for pixel with its top left corner at (x, y)."""
        bottom = self.height - MARGIN - y - image.shape[0]
        figure.figimage(image, x + MARGIN, bottom, origin="upper", resize=False)

    def text(self, figure: Figure, x: float, y: float, line: str, size: float, align: Align,
             color: str = INK) -> None:
        """One line of text, ``size`` pixels high, whose baseline is at y; coloured text is bold."""
        figure.text((x + MARGIN) / self.width, 1 - (y + MARGIN) / self.height, line, color=color, ha=align,
                    fontsize=size * 72 / DPI, fontweight="normal" if color == INK else "bold", va="baseline")

    def frame(self, figure: Figure, x: int, y: int, width: int, height: int, color: str) -> None:
        """A coloured line around the picture at (x, y), outside its pixels."""
        corner = (x + MARGIN - 2) / self.width, 1 - (y + MARGIN + height + 2) / self.height
        figure.add_artist(Rectangle(corner, (width + 4) / self.width, (height + 4) / self.height, fill=False,
                                    edgecolor=color, linewidth=1.6))


def _checked(images: Images, shape: tuple[int, ...]) -> Images:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or images.shape != shape:
        raise ValueError(f"faces must be (n, H, W, 3) uint8 of one shape, got {images.shape} {images.dtype}")
    return images


def _zoom(height: int, least: int = FACE) -> int:
    return max(1, -(-least // height))


def _enlarged(image: Images, zoom: int) -> Images:
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _short(name: str, pixels: int) -> str:
    """The name on one line, cut to what fits."""
    line, room = " ".join(str(name).split()), max(4, pixels // LETTER)
    return line if len(line) <= room else line[: room - 1] + "…"


def _outcome(score: float, matched: bool | None) -> str:
    mark = "" if matched is None else " ✓" if matched else " ✗"
    return f"{f'{score:.2f}' if np.isfinite(score) else '–'}{mark}"
