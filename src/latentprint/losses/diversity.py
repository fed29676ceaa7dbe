"""Reconstructions of one person should differ as photos of one person do, no less."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def diversity_hinge(embedding: Tensor, y: Tensor, real_variance: float) -> tuple[Tensor, Tensor]:
    """``max(0, v_real - v_y)``, with ``v_y`` the variance of ``F(x_hat)`` within a class of the batch.

    The notes' ``-Var`` has no lower bound and would push the images of a person apart for ever; the hinge
    stops at the spread of real photos. The variance is the unbiased one, summed over dimensions.

    Args:
        embedding: ``(B, D)`` the teacher's embeddings of the generated images.
        y: ``(B,)`` int64 their classes.
        real_variance: the same variance over real public photos of one person, averaged over people.

    Returns:
        The loss, ``()`` in [0, real_variance], averaged over the classes that occur at least twice in the
        batch (0 if none does), and their mean variance, ``()``, to log.

    Source: notes, loss C2.
    """
    same = (y[:, None] == y[None, :]).to(embedding)
    count = same.sum(1)
    deviation = embedding - same @ embedding / count[:, None]
    # Each image stands for 1 / count of its class, so that the sum over images is a sum over classes.
    variance = same @ deviation.square().sum(1) / (count - 1).clamp_min(1)
    share = torch.where(count > 1, 1 / count, 0.0)
    share = share / share.sum().clamp_min(1e-12)
    return (share * F.relu(real_variance - variance)).sum(), (share * variance).sum()
