"""From an image in [0, 1] to what a network was trained on: crop, resize, normalise; all differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError

Box = tuple[float, float, float, float]
Colours = Literal["rgb", "bgr", "grey"]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Preprocess(nn.Module):
    """Crop a box, resize it to a square, order the colours, scale, subtract the mean, divide by the deviation.

    Args:
        crop: top, left, bottom, right as fractions of the image, so that it means the same at any size.
        size: side in pixels after resizing (bilinear, antialiased); None keeps the crop as it is.
        mean, std: of each colour, in the network's order and after scaling, or one number for all of them; the default
            maps [0, 1] to [-1, 1].
        colours: the network's order, or ``grey`` for one channel (ITU-R BT.601), of which the first mean and std count.
        scale: of the values: 255 for a network that takes bytes.

    Raises:
        UserError: an empty crop or one that leaves the image, a size below 1, a deviation or scale not above 0.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(
        self,
        crop: Box = (0.0, 0.0, 1.0, 1.0),
        size: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        colours: Colours = "rgb",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        top, left, bottom, right = crop
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise UserError(f"crop must be top, left, bottom, right with 0 <= top < bottom <= 1 and "
                            f"0 <= left < right <= 1, got {tuple(crop)}")
        if size is not None and size < 1:
            raise UserError(f"size must be at least 1 pixel, got {size}")
        if len(mean) not in (1, 3) or len(std) not in (1, 3) or min(std) <= 0:
            given = f"{list(mean)} and {list(std)}"
            raise UserError(f"mean and std must be 3 numbers, or one for all colours, with std above 0, got {given}")
        if scale <= 0:
            raise UserError(f"scale must be above 0, got {scale:g}")
        self.crop, self.size = (top, left, bottom, right), size
        self.colours, self.scale = colours, scale
        # Not persistent: they belong to how the network is used, not to its weights.
        self.register_buffer("mean", _by_colour(mean), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(3, 1, 1), persistent=False)
        self.register_buffer("std", _by_colour(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [0, 1] to ``(B, 3 or 1, H', W')`` normalised.

        The box is rounded to whole pixels, and is never empty.
        """
        top, left, bottom, right = self.crop
        rows, columns = _pixels(top, bottom, x.shape[-2]), _pixels(left, right, x.shape[-1])
        x = x[..., rows, columns]
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if self.colours == "bgr":
            x = x.flip(1)
        elif self.colours == "grey":
            x = (x * self.luma).sum(1, keepdim=True)
        if self.scale != 1:
            x = x * self.scale
        return (x - self.mean[: x.shape[1]]) / self.std[: x.shape[1]]


def _by_colour(numbers: Sequence[float]) -> Tensor:
    return torch.tensor([*numbers] if len(numbers) == 3 else [*numbers] * 3, dtype=torch.float32).view(3, 1, 1)


def _pixels(start: float, stop: float, n: int) -> slice:
    first = min(round(start * n), n - 1)
    return slice(first, max(round(stop * n), first + 1))
