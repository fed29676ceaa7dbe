"""Which value means white, for pixels that are not bytes: floats, and whole numbers of more than 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentprint.errors import UserError

#: Highest values of bytes and of the bit depths of cameras and scanners.
DEPTHS = {8: 255, 10: 1023, 12: 4095, 14: 16383, 16: 65535}
#: Floats whose highest value lies between 1 and this could be in [0, 1] with some overshoot, or very dark bytes.
_LEAST_BYTES = 16.0
_MEND = "save them as 8-bit images, or with values from 0 to 1, 0 to 255 or 0 to 65535"


class Span(NamedTuple):
    """The lowest and highest value of some pixels, and whether their type holds whole numbers alone."""

    whole: bool
    low: float
    high: float


def span_of(pixels: NDArray) -> Span:
    """The span of an array that has at least one element; NaN when one of its values is."""
    return Span(pixels.dtype.kind in "ui", float(pixels.min()), float(pixels.max()))


def joint(spans: Iterable[Span]) -> dict[bool, Span]:
    """One span for all whole-numbered pixels and one for all floats, as far as there are any."""
    found: dict[bool, Span] = {}
    for span in spans:
        known = found.get(span.whole, span)
        low, high = (float(f([a, b])) for f, a, b in ((np.min, known.low, span.low), (np.max, known.high, span.high)))
        found[span.whole] = Span(span.whole, low, high)
    return found


def white_of(span: Span, where: str) -> float:
    """The value that means white: 1, 255, or the highest value of 10, 12, 14 or 16 bits.

    Args:
        where: begins the message.

    Raises:
        UserError: the values fit none of these, or two of them.
    """
    whole, low, high = span
    values = f"{where}: pixel values from {low:g} to {high:g}"
    if not np.isfinite([low, high]).all():
        raise UserError(f"{where}: pixel values that are not finite (NaN or infinite); {_MEND}")
    if low < 0:
        raise UserError(f"{values}, but black is 0; {_MEND}")
    if not whole and high <= 1:
        return 1.0
    if (1 if whole else _LEAST_BYTES) < high or high == 0:
        if (white := next((top for top in DEPTHS.values() if high <= top), None)) is not None:
            return float(white)
        raise UserError(f"{values} are beyond 16 bits; {_MEND}")
    raise UserError(f"{values} do not show whether white is 1 or 255; {_MEND}")


def reading(span: Span, white: float) -> str:
    """How pixels are read, in words: ``values from 0 to 65280 read as 16-bit (white is 65535)``."""
    bits = next((f"{depth}-bit (white is {white:g})" for depth, top in DEPTHS.items() if white == top),
                f"fractions (white is {white:g})")
    return f"values from {span.low:g} to {span.high:g} read as {bits}"


def to_bytes(pixels: NDArray, white: float) -> NDArray[np.uint8]:
    """The pixels with ``white`` at 255, rounded."""
    scaled = pixels.astype(np.float32) * np.float32(255 / white)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def whites(spans: Mapping[bool, Span], where: str) -> dict[bool, float]:
    """`white_of` each span, by whether it is of whole numbers."""
    return {whole: white_of(span, where) for whole, span in spans.items()}
