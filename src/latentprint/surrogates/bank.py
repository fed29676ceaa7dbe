"""Features by class: of a pass over the data, or the latest ones of the training batches.

Both are fitted in the layout ``(C, M, D)`` with a mask, in which the mixtures of all classes are fitted at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentprint.errors import RunFailed

#: Batches that a bank keeps as they are before it copies them: a step then costs it nothing.
FLUSH_EVERY = 16


class ByClass(NamedTuple):
    """Features ``(C, M, D)``, 0 where there is none, and ``(C, M)`` whether there is one."""

    features: Tensor
    there: Tensor


class FeatureBank(nn.Module):
    """The latest ``capacity`` features of training batches, so that no second pass over the data is needed.

    They come from an encoder in training: the earliest of them lie some steps back.

    Args:
        capacity: features in all; ``4 capacity D`` bytes.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        self.added = self.drained = 0
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("features", torch.zeros(capacity, dim))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.int64))
        self.register_state_dict_pre_hook(lambda *_: self.flush())

    def add(self, z: Tensor, y: Tensor) -> None:
        """Take a batch ``(B, D)`` with labels ``(B,)``, over the oldest. It is written later, many batches at once."""
        self.waiting.append((z.detach(), y))
        if len(self.waiting) == FLUSH_EVERY:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Write what waits."""
        if not self.waiting:
            return
        z, y = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.added += len(y)
        kept = min(len(y), len(self.labels))
        start = (self.added - kept) % len(self.labels)
        first = min(kept, len(self.labels) - start)
        for held, fresh in ((self.features, z[-kept:]), (self.labels, y[-kept:])):
            held[start : start + first] = fresh[:first]
            held[: kept - first] = fresh[first:]

    def contents(self) -> tuple[Tensor, Tensor]:
        """Features ``(N, D)`` and labels ``(N,)`` that are held."""
        self.flush()
        n = min(self.added, len(self.labels))
        return self.features[:n], self.labels[:n]

    def drain(self) -> int:
        """How many features were added since this was last asked."""
        self.flush()
        fresh, self.drained = self.added - self.drained, self.added
        return fresh

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.added, self.drained])

    def set_extra_state(self, state: Tensor) -> None:
        self.added, self.drained = map(int, state)


@torch.no_grad()
def by_class(z: Tensor, y: Tensor, n_classes: int) -> ByClass:
    """Features ``(N, D)`` with labels ``(N,)``, in order within each class; those that are not finite are left out.

    Steps that were skipped leave such features behind.

    Raises:
        RunFailed: no finite feature at all.
        ValueError: a label outside [0, n_classes).
    """
    good = z.isfinite().all(1)
    z, y = z[good], y[good]
    if not len(y):
        raise RunFailed("the class-conditional model of the features has no finite feature to be fitted on; the "
                        "encoder has diverged, lower the learning rate or the penalty's weight")
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise ValueError(f"labels must lie in [0, {n_classes}), got {int(y.min())} to {int(y.max())}")
    count = y.bincount(minlength=n_classes)
    order = y.argsort(stable=True)
    place = torch.arange(len(y), device=y.device) - (count.cumsum(0) - count)[y[order]]
    features = z.new_zeros(n_classes, int(count.max()), z.shape[1])
    features[y[order], place] = z[order]
    return ByClass(features, torch.arange(features.shape[1], device=y.device) < count[:, None])
