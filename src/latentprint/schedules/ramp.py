"""The weight of a loss as training, or denoising, proceeds: constant, a linear ramp, or a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentprint.errors import UserError

Ramp = Literal["constant", "linear", "sigmoid"]


@dataclass(frozen=True)
class WeightRamp:
    """``most`` times a function of the share t in [0, 1] that is done.

    Attributes:
        kind: ``constant``: 1; ``linear``: 0 up to ``begin``, then straight to 1 at ``end``; ``sigmoid``:
            ``1 / (1 + exp(-steepness (t - middle)))``.
        most: lambda_max.
        steepness, middle: of the sigmoid; the notes advise 6 to 10 and write 0.5 in the formula, 0.4 in the code.
        rescaled: stretch the sigmoid to run from exactly 0 to exactly 1; as written it starts at 4% of ``most``.

    Raises:
        UserError: a ramp that ends before it begins, or a steepness that is not above 0.

    Source: the notes on template losses (seed 002, sections 2 and 4).
    """

    kind: Ramp = "sigmoid"
    most: float = 1.0
    begin: float = 0.0
    end: float = 1.0
    steepness: float = 8.0
    middle: float = 0.4
    rescaled: bool = False

    def __post_init__(self) -> None:
        if self.kind == "linear" and not self.begin < self.end:
            raise UserError(f"ramp: a linear one must begin before it ends, got {self.begin:g} and {self.end:g}")
        if not self.steepness > 0:
            raise UserError(f"ramp: expected a steepness above 0, got {self.steepness:g}")

    def __call__(self, t: Tensor) -> Tensor:
        """The weight at each share ``t``, of any shape."""
        return self.most * self._share(t)

    @property
    def at_start(self) -> float:
        """The weight at 0."""
        return float(self(torch.zeros(())))

    def _share(self, t: Tensor) -> Tensor:
        match self.kind:
            case "constant":
                return torch.ones_like(t)
            case "linear":
                return ((t - self.begin) / (self.end - self.begin)).clamp(0, 1)
        low, high = self._raw(t.new_zeros(())), self._raw(t.new_ones(()))
        return (self._raw(t) - low) / (high - low) if self.rescaled else self._raw(t)

    def _raw(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.steepness * (t - self.middle))
