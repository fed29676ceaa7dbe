"""Surrogates whose state is refitted between epochs, and where the features for that come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from latentprint.surrogates.bank import ByClass, FeatureBank, by_class
from latentprint.surrogates.base import Surrogate
from latentprint.surrogates.clustering import first_centroids

#: Most of a cluster's variance that a batch can stand for, and how much faster than its share it gets there.
MOST_ALPHA, ALPHA_FACTOR = 0.99, 10.0


class Refitted(Surrogate):
    """Call `observe` every step and `refresh` every epoch; or `refresh` alone, with features of a pass.

    Args:
        seed: of the first centroids.
        capacity: of the `FeatureBank` that `observe` fills, in features; 0 keeps none, and `refresh` then wants the
            features of a pass over the data. By default 10,000, or 64 times the number of classes if that is more.
    """

    refreshes: ClassVar[bool] = True
    fitted: Tensor
    class_size: Tensor

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, seed: int = 0,
                 capacity: int | None = None) -> None:
        super().__init__(feature_shape, n_classes, noise_std)
        capacity = max(10_000, 64 * n_classes) if capacity is None else capacity
        self.bank = FeatureBank(capacity, self.dim) if capacity else None
        self.seed = seed
        self.register_buffer("fitted", torch.zeros(n_classes, dtype=torch.bool))
        self.register_buffer("class_size", torch.ones(()))

    @torch.no_grad()
    def observe(self, z: Tensor, y: Tensor) -> None:
        if self.bank is not None:
            self.bank.add(z.flatten(1), y)

    @torch.no_grad()
    def refresh(self, z: Tensor | None = None, y: Tensor | None = None) -> None:
        """Refit every class, from where the last fit ended.

        Raises:
            RunFailed: no feature is finite, or none was seen.
            ValueError: neither features nor a bank, or a label that is no class.
        """
        if z is not None and y is not None:
            samples = len(y)
        elif self.bank is not None:
            (z, y), samples = self.bank.contents(), self.bank.drain()
        else:
            raise ValueError("refresh() wants features and labels: this surrogate keeps none (capacity=0)")
        data = by_class(z.flatten(1).float(), y, self.n_classes)
        self.class_size.fill_(samples / self.n_classes)
        there = data.there.any(1)
        for name, fresh in self.fit(data).items():
            old = self.get_buffer(name)
            old.copy_(torch.where(there.view(-1, *[1] * (old.ndim - 1)), fresh, old))
        self.fitted |= there

    @abstractmethod
    def fit(self, data: ByClass) -> dict[str, Tensor]:
        """New values ``(C, ...)`` of buffers; those of classes without features are not taken."""

    def first(self, data: ByClass, k: int) -> Tensor:
        """First centroids ``(C, K, D)``."""
        uniform = torch.rand(k, self.n_classes, generator=torch.Generator().manual_seed(self.seed))
        return first_centroids(data, k, uniform.to(data.features.device))

    def saturation(self, weight: Tensor) -> Tensor:
        """Samples in a batch at which a cluster with share pi ``(C, K)`` of its class stands for itself: ``pi N / 10``.

        N is the mean size of a class.
        """
        return weight * (self.class_size / ALPHA_FACTOR)


def alpha(count: Tensor, saturation: Tensor) -> Tensor:
    """Share of a cluster's variance that comes from the batch: ``n / saturation``, or 0.99 where that is 1 or more."""
    share = count / saturation
    return share.masked_fill_(share >= 1, MOST_ALPHA)
