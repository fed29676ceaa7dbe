"""The published surrogate: k-means within each class, and the log of each cluster's variance above the noise.

Source: the code of Xia et al. 2025 (arXiv:2503.00383), which clusters where the paper writes of a Gaussian mixture.
For that one see `latentprint.surrogates.gmm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.surrogates.bank import ByClass
from latentprint.surrogates.base import Measured
from latentprint.surrogates.clustering import Clusters, kmeans
from latentprint.surrogates.groups import Classmates, dense_rank
from latentprint.surrogates.refitted import Refitted, alpha
from latentprint.surrogates.thresholds import Hinge, Threshold


class KMeansSurrogate(Refitted):
    """``sum_j pi_j hinge(log(v_j + gamma) - threshold)`` of a class, averaged over the classes of the batch.

    Each sample belongs to the nearest centroid of its own class. ``v_j`` mixes the mean squared distance per dimension
    from the centroid in this batch, through which the gradient flows, with that of the last fit:
    ``v = alpha v_batch + (1 - alpha) V`` with ``alpha = 10 n_j / (pi_j N)``, or 0.99 where that is 1 or more; ``n_j``
    counts the cluster's samples in the batch, N is the mean size of a class.

    Args:
        clusters: K of each class (published: 5, and 15 for networks without a sigmoid).
        log_entropy: False gives ``sum_j pi_j (v_j + 0.001)``.
        faithful_bug: take weight and variance of a wrong class, as the published code does: that of the sample which
            stands, after sorting by class, at the place of the class among the classes of the batch. In a batch of ten
            classes, all take those of the first.
        seed, capacity: see `Refitted`.

    A class that was never fitted, and a cluster that was empty, cost nothing. Before the first `refresh` the loss is 0.

    Source: the published code, its clustering and its ``rob_loss``.
    """

    centroids: Tensor
    statistics: Tensor
    out_of_reach: Tensor

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, clusters: int = 5,
                 threshold: Threshold | None = None, hinge: Hinge | None = None, log_entropy: bool = True,
                 faithful_bug: bool = False, seed: int = 0, capacity: int | None = None) -> None:
        super().__init__(feature_shape, n_classes, noise_std, seed=seed, capacity=capacity)
        self.threshold, self.hinge = threshold or Threshold(), hinge or Hinge()
        self.log_entropy, self.faithful_bug, self.clusters = log_entropy, faithful_bug, clusters
        self.register_buffer("centroids", torch.zeros(n_classes, clusters, self.dim))
        self.register_buffer("statistics", torch.zeros(n_classes, clusters, 3))  # one look-up for what goes together
        self.register_buffer("out_of_reach", torch.zeros(n_classes, clusters))

    @property
    def fit_result(self) -> Clusters:
        """What the last fit left, ``(C, K)`` and ``(C, K, D)``."""
        weight, variance, _ = self.statistics.unbind(2)
        return Clusters(self.centroids, variance, weight)

    def check(self) -> None:
        if self.log_entropy:
            self.threshold.check(self.noise_std)

    def fit(self, data: ByClass) -> dict[str, Tensor]:
        start = torch.where(self.fitted[:, None, None], self.centroids, self.first(data, self.clusters))
        return self._state(kmeans(data, start))

    def _state(self, found: Clusters) -> dict[str, Tensor]:
        statistics = torch.stack((found.weight, found.variance, self.saturation(found.weight)), 2)
        # Nobody is to join a cluster whose variance is not known.
        empty = torch.zeros_like(found.weight).masked_fill_(found.weight == 0, torch.inf)
        return {"centroids": found.centroids, "statistics": statistics, "out_of_reach": empty}

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        centroid, share, alpha, before, weight = self._assign(z, y)
        batch = share @ F.mse_loss(z, centroid, reduction="none").mean(1)
        variance = torch.lerp(before, batch, alpha)
        if self.log_entropy:
            limit = self.threshold.log_variance(self.noise_std, progress)
            cost = self.hinge((variance + self.threshold.gamma).log() - limit)
        else:
            cost = variance + 0.001
        with torch.no_grad():
            class_cost = mates.same @ (cost * weight)
        return Measured(torch.dot(cost, weight / mates.each_class_once.sum()), class_cost, {})

    @torch.no_grad()
    def _assign(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per sample: the centroid it belongs to, means over its cluster ``(B, B)``, alpha, V, and ``pi / n``.

        A cluster's cost is written once for each of its n samples in the batch, at ``1 / n``.
        """
        distance = torch.cdist(z[:, None], self.centroids[y])[:, 0]
        chosen = (distance + self.out_of_reach[y]).argmin(1)
        key = chosen.add(y, alpha=self.clusters)
        same = (key == key[:, None]).float()
        count = same.sum(1)
        owner = _wrong_class(y) if self.faithful_bug else y
        weight, before, saturation = self.statistics[owner, chosen].unbind(1)
        return self.centroids[y, chosen], same / count, alpha(count, saturation), before, weight / count


def _wrong_class(y: Tensor) -> Tensor:
    """The class at the place, among all sorted samples, which a sample's class has among those present."""
    ordered, rank = dense_rank(y)
    return ordered[rank]
