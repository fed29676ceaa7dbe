"""Losses on the prior's noise prediction, and their weight over the denoising process.

*Progress* is 0 at pure noise and 1 at the clean image: ``1 - t / T``, the reverse of the usual timestep.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PROGRESS_BOUNDS = (0.2, 0.8)
PROGRESS_WEIGHTS = (0.5, 1.0, 1.5)


def prior_mse(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (or velocity), ``E ||eps - eps_theta||^2`` per dimension.

    Args:
        pred, target: ``(B, *)`` of the same shape.

    Returns:
        ``(B,)`` in [0, inf); about 1 for an untrained network and unit noise.

    Source: Ho et al. 2020 (arXiv:2006.11239), equation 14; notes, equation 4.2.
    """
    return (pred - target).square().flatten(1).mean(1)


def prior_cosine(pred: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine between predicted and true noise, each taken as one long vector.

    It leaves the *scale* of the prediction free, which a sampler needs: alone it can break sampling, so it is
    meant to stand beside `prior_mse`.

    Args:
        pred, target: ``(B, *)`` of the same shape.

    Returns:
        ``(B,)`` in [0, 2].

    Source: notes, loss A2.
    """
    return 1 - F.cosine_similarity(pred.flatten(1), target.flatten(1), dim=1)


def progress_weight(progress: Tensor) -> Tensor:
    """Weight of a noise level in the prior loss: 0.5 below progress 0.2, 1.0 up to 0.8, 1.5 from there on.

    Args:
        progress: ``(B,)`` in [0, 1], 0 at pure noise and 1 at the clean image.

    Returns:
        ``(B,)``, one of 0.5, 1.0, 1.5.

    Source: notes, loss A1 (its "t < 0.2T = high noise" counts progress).
    """
    bounds = progress.new_tensor(PROGRESS_BOUNDS)
    return progress.new_tensor(PROGRESS_WEIGHTS)[torch.bucketize(progress, bounds, right=True)]
