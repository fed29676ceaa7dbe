"""Samples of a batch by class, for sums over classes without a loop and without asking the device how many there are.

Whatever belongs to a class is written once for each of its samples, in a batch of B rows; a sum over classes is then a
sum over rows weighted by one over the class's size. Shapes depend on B alone, so nothing waits for the device, and a
sum over a class is a matrix product: deterministic, unlike atomic additions, and with a cheap gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Classmates(NamedTuple):
    """Which samples share a class.

    Attributes:
        same: ``(B, B)`` float32, 1 where two samples share a class; symmetric, 1 on the diagonal.
        size: ``(B,)`` float32, samples in each one's class, itself included.
        share: ``same / size``: times ``(B, D)`` it gives each sample its class's mean.
    """

    same: Tensor
    size: Tensor
    share: Tensor

    @property
    def each_class_once(self) -> Tensor:
        """``(B,)``, which sum to 1 over every class."""
        return self.size.reciprocal()


@torch.no_grad()
def classmates(y: Tensor) -> Classmates:
    """Samples that share a label, ``(B,)``."""
    return related((y == y[:, None]).float())


def related(same: Tensor) -> Classmates:
    """From who belongs together, ``(B, B)`` float32."""
    size = same.sum(1)
    return Classmates(same, size, same / size)


def dense_rank(y: Tensor) -> tuple[Tensor, Tensor]:
    """The labels ``(B,)`` in order, and for each sample how many distinct labels are below its own."""
    ordered, order = y.sort()
    rank = torch.zeros_like(y)
    rank[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return ordered, torch.empty_like(y).scatter_(0, order, rank)
