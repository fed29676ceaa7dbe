"""What a report says of framing: how each recogniser is given the face, and where the photos have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentprint.report.pictures import Picture
from latentprint.report.tables import Cell, Column, Row, Table
from latentprint.report.values import NOT_MEASURED, mapping, number, percent, plain, sequence, text

#: How a recogniser is given the face.
WAYS = {"auto": "one crop for all images, by the mean face of the sets", "each": "each image by its own landmarks",
        "given": "whole images"}
#: Key, heading, what it means, and whether it is a share.
COLUMNS = (
    ("n", "Images", "how many were looked at", False),
    ("found", "Face found", "share of them in which the landmark network finds a face", True),
    ("eyes_height", "Eyes at", "height of the eyes as a share of the image, from the top", False),
    ("eyes_apart", "Eyes apart", "distance of the eyes as a share of the image's side", False),
    ("nose_height", "Nose at", "height of the nose as a share of the image, from the top", False),
    ("residual", "Residual", "how far the five points of the mean face are from where a recogniser expects them, in "
     "sides of its crop; a face has at most 0.04", False),
    ("spread", "Spread", "mean distance of an image's five points from the set's, in sides of the crop; from 0.04 on "
     "one crop for all is too coarse for some recognisers", False),
)


@dataclass(frozen=True)
class FramingView:
    """Everything the page shows of framing. ``lines``: a sentence for each recogniser; none: nothing to show."""

    lines: tuple[str, ...]
    table: Table
    file: str
    picture: Picture | None

    def __bool__(self) -> bool:
        return bool(self.lines)

    @property
    def help(self) -> list[tuple[str, str]]:
        """What each column means."""
        return [(column.label, column.help) for column in self.table.columns]


def framing_view(section: Mapping[str, Any], pictures: Mapping[str, Picture]) -> FramingView:
    """From a channel's section; any key may be missing or of another type.

    Args:
        pictures: by file name as the section spells it.
    """
    found = mapping(section.get("framing"))
    lines = tuple(_line(mapping(each)) for each in sequence(found.get("recognisers")))
    rows = tuple(Row(text(row.get("name"), "(unnamed)"), tuple(_cell(row, key, share) for key, _, _, share in COLUMNS))
                 for row in map(mapping, sequence(found.get("sets"))) if row)
    columns = tuple(Column(heading, meaning) for _, heading, meaning, _ in COLUMNS)
    file = text(found.get("sheet"))
    return FramingView(lines, Table(columns, rows), file, pictures.get(file))


def _line(row: Mapping[str, Any]) -> str:
    framing = text(row.get("framing"))
    return (f"{text(row.get('name'), 'a recogniser')} ({text(row.get('setting'), 'unknown setting')}): "
            f"{WAYS.get(framing, framing or NOT_MEASURED)}")


def _cell(row: Mapping[str, Any], key: str, share: bool) -> Cell:
    value = number(row.get(key))
    if value is None:
        return Cell("–")
    return Cell(percent(value) if share else f"{int(value):,}" if key == "n" else plain(value))
