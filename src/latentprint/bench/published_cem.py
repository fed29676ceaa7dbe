"""The published form of the k-means penalty: a Python loop over classes and clusters that asks the device each time.

It is here to be measured and compared with, written from the formulas. Source: the training code of Xia et al. 2025
(arXiv:2503.00383), its ``rob_loss``, and its two backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentprint.surrogates.clustering import Clusters


def published_penalty(z: Tensor, y: Tensor, fit: Clusters, class_size: float, noise_std: float, *, tau: float = 0.125,
                      gamma: float = 0.01, log_entropy: bool = True, faithful_bug: bool = True) -> Tensor:
    """The loss of clean features ``(B, ...)`` with labels ``(B,)``: a scalar.

    Args:
        fit: of k-means on the epoch before. class_size: N, samples of an epoch over the number of classes.
        faithful_bug: weights and variances are listed per sorted sample but looked up by the number of the class in
            the batch, so those of another class are taken.
    """
    z = z.flatten(1)
    ordered = y.sort().values
    threshold = math.log(tau * noise_std**2 + gamma)
    total, classes = z.new_zeros(()), y.unique()
    for counter, label in enumerate(classes):
        members = z[y == label]
        nearest = torch.cdist(members.detach(), fit.centroids[label]).cpu().argmin(1).to(z.device)
        owner = ordered[counter] if faithful_bug else label
        for cluster in nearest.unique():
            own = members[nearest == cluster]
            weight, before = fit.weight[owner, cluster], fit.variance[owner, cluster]
            alpha = 10 * len(own) / (weight * class_size)
            if alpha >= 1:
                alpha = torch.full_like(alpha, 0.99)
            variance = alpha * (own - fit.centroids[label, cluster]).square().mean() + (1 - alpha) * before
            cost = torch.relu((variance + gamma).log() - threshold) if log_entropy else variance + 0.001
            if not torch.isnan(cost):
                total = total + weight * cost
    return total / len(classes)


def two_passes(penalty: Tensor, task: Callable[[], Tensor], encoder: Sequence[Tensor], others: Sequence[Tensor],
               weight: float) -> None:
    """Gradients as published: of the penalty first, saved and zeroed; of the task; then the first added to the encoder.

    Args:
        penalty: scalar, of the encoder alone. task: the loss, from the same features.
        encoder, others: parameters; their ``grad`` is what comes out.
        weight: lambda times the learning rate's scale.
    """
    penalty.backward(retain_graph=True)
    saved = [p.grad.clone() for p in encoder if p.grad is not None]
    for p in (*encoder, *others):
        p.grad = None
    task().backward()
    for p, gradient in zip(encoder, saved, strict=True):
        p.grad = gradient * weight if p.grad is None else p.grad + weight * gradient
