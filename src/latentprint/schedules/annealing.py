"""How the identity passes from photos to label embeddings: a phase from 0 to 1, and lambda as its function.

``e_id = (1 - lambda) e_photo + lambda e_label``. The phase is accumulated, ``1 / horizon`` a step, rather
than computed as ``step / horizon``: a horizon that is lengthened under way slows lambda down and never takes
it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


def cosine_lambda(phase: float) -> float:
    """``(1 - cos(pi phase)) / 2``: slow at both ends. Phases beyond 0..1 count as 0 or 1.

    Source: notes, annealing schedule of stage 1; the shape of Loshchilov & Hutter 2017 (arXiv:1608.03983).
    """
    return (1 - math.cos(math.pi * min(max(phase, 0.0), 1.0))) / 2


def linear_lambda(phase: float) -> float:
    """``phase`` itself, kept within 0..1: the ablation of `cosine_lambda`."""
    return min(max(phase, 0.0), 1.0)


@dataclass
class PhaseClock:
    """The phase of an annealing, in [0, 1]: all that a resumed run needs to go on where it stopped."""

    phase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.phase <= 1:
            raise ValueError(f"phase must lie in [0, 1], got {self.phase}")

    def advance(self, horizon: float) -> float:
        """Go one step of a schedule that takes ``horizon`` steps in all, and return the new phase.

        Raises:
            ValueError: the horizon is not positive.
        """
        if not horizon > 0:
            raise ValueError(f"horizon must be positive, got {horizon}")
        self.phase += 1 / horizon
        # A thousand sums of 1/1000 may stop a rounding error short of 1.
        if self.phase > 1 - 1e-9:
            self.phase = 1.0
        return self.phase

    def state_dict(self) -> dict[str, float]:
        return {"phase": self.phase}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Raises ValueError if the phase is outside [0, 1]."""
        self.phase = PhaseClock(state["phase"]).phase
