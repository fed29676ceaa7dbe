"""The values that travel between an attack, a victim and an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum

from torch import Tensor

from latentprint.stats import Interval

__all__ = ["Access", "AccessDenied", "Bounds", "Interval", "Reconstruction"]


@dataclass(frozen=True)
class Bounds:
    """A closed range of values.

    Raises:
        ValueError: an end is not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"bounds must be finite with low < high, got {self.low} and {self.high}")

    def clip(self, x: Tensor) -> Tensor:
        """``x`` with every value moved to the nearest within the range; NaN stays NaN."""
        return x.clamp(self.low, self.high)


class Access(Enum):
    """What an adversary gets from a victim."""

    WHITE_BOX = "white-box"
    """Logits, penultimate features and gradients."""
    SCORES = "scores"
    """The logarithms of the class probabilities, without gradients."""
    LABELS = "labels"
    """The predicted class alone, as a one-hot vector."""


class AccessDenied(RuntimeError):
    """An attack asked its victim for more than the threat model grants."""


@dataclass(frozen=True)
class Reconstruction:
    """What an attack drew out of a victim, and what it cost. N images, everything on the CPU.

    Attributes:
        images: ``(N, 3, H, W)`` float32 within the victim's bounds.
        classes: ``(N,)`` int64, whose face each image should show.
        seeds: ``(N,)`` int64; an image depends on its class and seed, not on its neighbours in a batch.
        attribute_index: ``(N,)`` int64, the public image that gave pose, expression, light and background; -1
            where none did.
        victim_confidence: ``(N,)`` the victim's probability of the class, in [0, 1]; 0 or 1 under
            `Access.LABELS`.
        victim_prediction: ``(N,)`` int64, the victim's answer.
        selected: ``(N,)`` bool, the best of each class by the victim's confidence (never an evaluator's).
        n_forward: images the victim answered, the final query included.
        n_backward: images for which a gradient was asked.
        seconds: wall-clock time, the final query included.

    Raises:
        ValueError: the lengths differ, or the images are not ``(N, 3, H, W)``.
    """

    images: Tensor
    classes: Tensor
    seeds: Tensor
    attribute_index: Tensor
    victim_confidence: Tensor
    victim_prediction: Tensor
    selected: Tensor
    n_forward: int
    n_backward: int
    seconds: float

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(self.images.shape)}")
        for field in fields(self)[1:7]:
            shape = tuple(getattr(self, field.name).shape)
            if shape != (len(self.images),):
                raise ValueError(f"{field.name} must be ({len(self.images)},), got {shape}")

    def __len__(self) -> int:
        return len(self.images)
