"""How much class-conditional variance is tolerated, and what exceeding it costs.

Penalties here have the form ``hinge(log(v + gamma) - threshold)``: v is a variance of clean features, and features
that vary less than the threshold leave the noise on top of them to hide what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from latentprint.errors import UserError

ThresholdKind = Literal["noise", "constant", "schedule"]
HingeKind = Literal["relu", "softplus"]

#: Learning rates from which the penalty is scaled down, and what it is scaled to: the published training.
FULL_SCALE_LR, SCALE_NUMERATOR = 4.1e-4, 1e-3


def require_noise(noise_std: float, what: str) -> None:
    """Raises UserError unless there is noise to compare with: without it the threshold would be a tiny constant."""
    if not noise_std > 0:
        raise UserError(f"noise_std: {what} compares features with the noise on them and needs a standard deviation "
                        f"above 0, got {noise_std:g}; add noise, or take the 'constant' threshold")


@dataclass(frozen=True)
class Threshold:
    """The tolerated log-variance.

    Attributes:
        kind: ``noise`` is ``log(tau noise_std^2 + gamma)``, the published one; ``constant`` is ``log(variance)``;
            ``schedule`` goes from the constant to the noise's linearly in the log, as training proceeds: the network
            first learns to classify, then the demand rises (the notes on slots, the third problem).
        tau: share of the noise's variance that features may have.
        gamma: in both logarithms, so that a variance of 0 has one; in squared units of the features.
        variance: of ``constant``, and where ``schedule`` starts, in squared units of the features.
    """

    kind: ThresholdKind = "noise"
    tau: float = 0.125
    gamma: float = 0.01
    variance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("tau", "gamma", "variance"):
            if not getattr(self, name) > 0:
                raise UserError(f"threshold.{name}: expected a number above 0, got {getattr(self, name)}")

    def check(self, noise_std: float) -> None:
        """Raises UserError where the kind is relative to a noise that is not there."""
        if self.kind != "constant":
            require_noise(noise_std, f"the '{self.kind}' threshold")

    def log_variance(self, noise_std: float, progress: float) -> float:
        """The threshold when the share ``progress`` in [0, 1] of the training is done.

        Raises:
            UserError: see `check`.
        """
        self.check(noise_std)
        loose = math.log(self.variance)
        if self.kind == "constant":
            return loose
        strict = math.log(self.tau * noise_std**2 + self.gamma)
        return strict if self.kind == "noise" else loose + progress * (strict - loose)


@dataclass(frozen=True)
class Hinge:
    """What an excess of log-variance costs: ``relu(x)``, or ``softplus(beta (x - margin)) / beta``."""

    kind: HingeKind = "relu"
    beta: float = 1.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"hinge.beta: expected a number above 0, got {self.beta}")

    def __call__(self, excess: Tensor) -> Tensor:
        """Elementwise, at least 0."""
        return F.relu(excess) if self.kind == "relu" else F.softplus(excess - self.margin, self.beta)


def learning_rate_scale(lr: float) -> float:
    """The published factor on the penalty at a learning rate: 1 below 4.1e-4, else ``0.001 / lr``.

    It keeps a large learning rate from letting the penalty drown the task. The published training adds the penalty's
    gradient to the task's after a backward pass of its own; one backward of the weighted sum gives the same.
    """
    return 1.0 if lr < FULL_SCALE_LR else SCALE_NUMERATOR / lr
