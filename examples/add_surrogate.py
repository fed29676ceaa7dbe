"""Add a surrogate of the conditional entropy: a class in a file of yours, named in the settings.

    latentprint defend feature --out runs/spread --set "defences=[{kind: noise}, {kind: cem, surrogate:
      {kind: custom, made_by: 'examples/add_surrogate.py:Spread', options: {gamma: 0.001}}}]"

`Spread` is the plainest one there is: the log-variance of features about their class's mean in the batch, above that of
the noise. The base class checks shapes, counts classmates and computes in fp32; everything else here is the idea.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from latentprint.errors import UserError
from latentprint.surrogates.base import Measured, Surrogate
from latentprint.surrogates.groups import Classmates


class Spread(Surrogate):
    """``mean_k relu(log(Var_k + gamma) - log(noise^2 + gamma))`` over the classes of a batch.

    Args:
        feature_shape, n_classes, noise_std: see `Surrogate`.
        gamma: added to every variance.
    """

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, gamma: float = 1e-3) -> None:
        super().__init__(feature_shape, n_classes, noise_std)
        self.gamma = gamma

    def check(self) -> None:
        if self.noise_std == 0:
            raise UserError("Spread measures features against the noise, and there is none: list 'noise' as well")

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        mean = mates.share @ z                                         # (B, D): each sample's class mean
        variance = mates.share @ (z - mean).square().mean(1)           # (B,): of its class, equal for classmates
        excess = (variance + self.gamma).log() - math.log(self.noise_std**2 + self.gamma)
        cost = excess.relu()
        weight = mates.each_class_once  # however many of it are in the batch
        return Measured((cost * weight).sum() / weight.sum(), cost.detach(), {"excess": excess.detach().mean()})
