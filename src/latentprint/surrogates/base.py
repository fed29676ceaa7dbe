"""What every surrogate of the class-conditional entropy is: features and labels in, a penalty out.

Conditional-entropy maximisation (Xia et al. 2025, arXiv:2503.00383) hides an image in its features by making features
of one class alike, relative to the noise that is added to them: the less they differ, the less they tell beyond the
class. A surrogate measures how much they differ, so that the encoder can be trained against it.

Features are the clean ones, before noise. No surrogate asks the device for a number in a step, so NaN or infinite
features are not refused there: they make the loss NaN, which the training loop sees, skips and counts anyway.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.surrogates.groups import Classmates, classmates


class Penalty(NamedTuple):
    """What a surrogate says of a batch.

    Attributes:
        loss: scalar, differentiable with respect to the features.
        intra_class_mse: scalar, detached: mean squared distance per dimension from the class's mean in the batch, over
            the samples of classes with two or more; NaN where there are none. All surrogates have it, so they compare.
        diagnostics: detached tensors, still on the device. ``singletons``: how many samples are alone in their class;
            ``class_penalty``: ``(B,)``, what the class of each sample costs, before it is weighed against others.
    """

    loss: Tensor
    intra_class_mse: Tensor
    diagnostics: Mapping[str, Tensor]


class Measured(NamedTuple):
    """What a subclass answers: the loss, for each sample ``(B,)`` its class's cost, detached, and values of its own."""

    loss: Tensor
    class_cost: Tensor
    diagnostics: Mapping[str, Tensor]


class Surrogate(nn.Module, ABC):
    """Measures how features of one class differ.

    Args:
        feature_shape: ``(C, H, W)`` or ``(D,)`` of the features.
        n_classes: labels lie in [0, n_classes).
        noise_std: standard deviation of the noise that will be added to the features, in their units.
    """

    #: Whether `refresh` has to be called between epochs.
    refreshes: ClassVar[bool] = False

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float) -> None:
        super().__init__()
        if len(feature_shape) not in (1, 3) or n_classes < 1:
            raise ValueError(f"expected features (D,) or (C, H, W) and a class, got {feature_shape}, {n_classes}")
        self.feature_shape, self.n_classes, self.noise_std = tuple(feature_shape), n_classes, noise_std
        self.dim = math.prod(feature_shape)

    def forward(self, z: Tensor, y: Tensor, progress: float = 1.0) -> Penalty:
        """The penalty of a batch, computed in fp32 whatever the precision around it.

        Args:
            z: ``(B, *feature_shape)``, clean. y: ``(B,)`` int64.
            progress: share of the training that is done, in [0, 1].

        Raises:
            UserError: the penalty is relative to a noise of 0.
            ValueError: shapes that do not fit.
        """
        if z.shape != (len(y), *self.feature_shape) or y.ndim != 1 or not len(y):
            raise ValueError(f"expected features (B, {', '.join(map(str, self.feature_shape))}) and labels (B,), got "
                             f"{tuple(z.shape)} and {tuple(y.shape)}")
        self.check()
        with torch.autocast(z.device.type, enabled=False):
            z, mates = z.float().flatten(1), classmates(y)
            measured = self.measure(z, y, mates, progress)
            alone, mse = _spread(z, mates)
        return Penalty(measured.loss, mse, {"singletons": alone, "class_penalty": measured.class_cost,
                                            **measured.diagnostics})

    @abstractmethod
    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        """The penalty of fp32 features ``(B, D)``, without a loop over classes."""

    def explain(self, z: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What to draw of a batch ``(B, *feature_shape)``: ``attention`` ``(B,)``, the weight of each sample within its
        class, or ``(B, S)``, its share in each slot; ``dimension_gate`` and ``snr_gate`` ``(B, D)`` of its class. Only
        what the surrogate has."""
        return {}

    def check(self) -> None:
        """Raises UserError where this surrogate needs noise and there is none: for whoever weighs it above 0."""

    def observe(self, z: Tensor, y: Tensor) -> None:
        """Keep what a training batch, ``(B, *feature_shape)`` without gradient, tells for `refresh`."""

    def refresh(self, z: Tensor | None = None, y: Tensor | None = None) -> None:
        """Refit between epochs: on features of a pass ``(N, *feature_shape)``, or on what was observed.

        A surrogate that learns in every step takes a pass alone, for what it remembers of classes.
        """

    def learn(self, z: Tensor, y: Tensor) -> None:
        """Take a step of the surrogate's own optimiser, where it has one; called once a training step."""

    def joint_parameters(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser of the network that is defended."""
        return []


@torch.no_grad()
def _spread(z: Tensor, mates: Classmates) -> tuple[Tensor, Tensor]:
    """How many samples are alone in their class, and the intra-class MSE of those that are not: their distances are 0.

    Both float32 scalars.
    """
    alone = (mates.size == 1).sum(dtype=torch.float32)
    return alone, F.mse_loss(z, mates.share @ z) / torch.rsub(alone, 1, alpha=1 / len(z))
