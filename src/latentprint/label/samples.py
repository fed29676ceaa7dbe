"""Pictures of the same few classes over training, one file a look, so that a resumed run has them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

FOLDER = Path("images") / "samples"


def keep_sample(run_dir: Path, step: int, images: Tensor) -> None:
    """Write ``(k, 3, H, W)`` uint8 as one column of faces. A look that is taken again writes the same file again.

    Args:
        step: of the whole attack, which names the file.
    """
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    column = images.permute(0, 2, 3, 1).flatten(0, 1)
    Image.fromarray(column.numpy()).save(folder / f"{step:06d}.png")


def read_samples(run_dir: Path, most: int = 12) -> dict[int, NDArray[np.uint8]]:
    """``(k, H, W, 3)`` by step, of square pictures; of more than ``most`` looks, so many at even distances."""
    files = sorted((run_dir / FOLDER).glob("*.png"), key=lambda file: int(file.stem))
    chosen = np.unique(np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int))
    return {int(files[i].stem): _faces(files[i]) for i in chosen}


def _faces(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        column = np.asarray(image.convert("RGB"))
    return column.reshape(-1, image.width, image.width, 3)
