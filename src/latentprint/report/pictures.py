"""Pictures of a run, read for inlining: only whole PNG and JPEG files that lie inside the run directory."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

WIDE = 1400  # pixels
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI with its size in pixels."""

    uri: str
    width: int
    height: int

    @property
    def is_wide(self) -> bool:
        """Whether it needs a row of its own, and scrolls on a small screen."""
        return self.width > WIDE


def load(run_dir: Path, name: str) -> Picture | None:
    """The picture ``name`` in ``run_dir``; None when missing, elsewhere, cut short or of other kinds."""
    try:
        path = (run_dir / name).resolve()
        if not path.is_relative_to(run_dir.resolve()):
            return None
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=list(MEDIA_TYPES)) as image:
            image.load()  # decodes, so that a half-written file is found here and not by the reader
            media_type, (width, height) = MEDIA_TYPES[str(image.format)], image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # ValueError: a NUL byte in the name; SyntaxError: Pillow's word for a broken PNG chunk
        return None
    return Picture(f"data:{media_type};base64,{base64.b64encode(content).decode()}", width, height)
