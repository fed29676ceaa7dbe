"""A Gaussian mixture for each class, and the log-determinant of its covariances relative to the noise.

What goes over the channel is ``z + noise``. Under a mixture of Gaussians for each class, the class-conditional mutual
information of features and what is sent is at most the entropy of the component plus, for each component,
``log(|Sigma + Sigma_noise| / |Sigma_noise|) / 2``: the bound that Xia et al. 2025 (arXiv:2503.00383, equations 5 to 7)
train on. Here covariances are diagonal and all is divided by the dimension, so a weight means the same at any cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from latentprint.surrogates.bank import ByClass
from latentprint.surrogates.base import Measured
from latentprint.surrogates.clustering import Mixture, fit_mixture, kmeans, mixture_of
from latentprint.surrogates.groups import Classmates
from latentprint.surrogates.refitted import Refitted, alpha
from latentprint.surrogates.thresholds import require_noise


class GMMSurrogate(Refitted):
    """``sum_j pi_j (mean_d log(1 + v_jd / noise_var) / 2 - log(pi_j) / D)`` of a class, averaged over the batch's.

    Every sample counts for each component of its class in proportion to the component's posterior, which carries no
    gradient. ``v_j`` mixes the spread around the component's mean in this batch, through which the gradient flows,
    with the last fit's, as `latentprint.surrogates.refitted.alpha` says. Components that nobody in the batch belongs to
    keep the last fit's: the value is that of whole classes, while the gradient is the batch's.

    Args:
        components: K of each class (the paper: 3).
        floor: added to fitted variances, in squared units of the features.
        seed, capacity: see `Refitted`.

    Classes that were never fitted cost nothing; ``unfitted`` in the diagnostics counts their samples.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, components: int = 3,
                 floor: float = 1e-6, seed: int = 0, capacity: int | None = None) -> None:
        super().__init__(feature_shape, n_classes, noise_std, seed=seed, capacity=capacity)
        self.floor = floor
        self.register_buffer("weight", torch.full((n_classes, components), 1 / components))
        self.register_buffer("mean", torch.zeros(n_classes, components, self.dim))
        self.register_buffer("variance", torch.ones(n_classes, components, self.dim))

    def check(self) -> None:
        require_noise(self.noise_std, "the 'gmm' surrogate")

    def fit(self, data: ByClass) -> dict[str, Tensor]:
        last = Mixture(self.weight, self.mean, self.variance)
        drawn = mixture_of(data, kmeans(data, self.first(data, self.weight.shape[1])), self.floor)
        start = Mixture(*(torch.where(self.fitted.view(-1, *[1] * (a.ndim - 1)), a, b)
                          for a, b in zip(last, drawn, strict=True)))
        return fit_mixture(data, start, floor=self.floor)._asdict()

    def distribution(self, y: Tensor) -> MixtureSameFamily:
        """The fitted density of flat features ``(B, D)`` of the classes ``(B,)``."""
        components = Independent(Normal(self.mean[y], self.variance[y].sqrt()), 1)
        return MixtureSameFamily(Categorical(self.weight[y]), components)

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        mean, last, weight = self.mean[y], self.variance[y], self.weight[y]
        spread = (z[:, None] - mean).square()
        posterior, averaging, share = self._assign(spread, last, weight, mates)
        variance = torch.lerp(last, torch.einsum("kib,bkd->ikd", averaging, spread), share[..., None])
        relative = (variance / self.noise_std**2).log1p().mean(2) / 2
        known = self.fitted[y]
        cost = (weight * relative - weight.xlogy(weight) / self.dim).sum(1) * known
        once = mates.each_class_once
        diagnostics = {"unfitted": len(y) - known.sum(), "posterior_entropy": -posterior.xlogy(posterior).sum(1).mean()}
        return Measured(torch.dot(cost, once / once.sum()), cost.detach(), diagnostics)

    @torch.no_grad()
    def _assign(self, spread: Tensor, variance: Tensor, weight: Tensor,
                mates: Classmates) -> tuple[Tensor, Tensor, Tensor]:
        """Posteriors ``(B, K)``; weights of each sample in another's component ``(K, B, B)``; alpha ``(B, K)``."""
        posterior = (weight.log() - (spread / variance + variance.log()).sum(2) / 2).softmax(1)
        mass = mates.same @ posterior
        averaging = mates.same * posterior.T[:, None] / mass.T[..., None].clamp_min(1e-12)
        return posterior, averaging, alpha(mass, self.saturation(weight))
