"""Distances of two images by frozen networks: in their features, shallow to deep, and in attributes that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Texture may differ, structure must agree (notes, loss C3).
DEPTH_WEIGHTS = (0.2, 0.5, 0.3)
# Added to a squared norm: keeps the gradient finite at positions where every channel is silent.
EPSILON = 1e-6


def feature_distance(
    features: Sequence[Tensor], others: Sequence[Tensor], weights: Sequence[float] = DEPTH_WEIGHTS
) -> Tensor:
    """``sum_l w_l mean_{h,w} || n(phi_l(x)) - n(phi_l(x')) ||^2``, ``n`` to unit length over channels.

    Args:
        features, others: one map ``(B, C_l, H_l, W_l)`` per depth, of the two images.
        weights: one per depth, at least 0.

    Returns:
        ``(B,)`` in [0, 4 sum(weights)]; at most 2 sum(weights) for features after a ReLU.

    Raises:
        ValueError: the numbers of depths and of weights differ.

    Source: Zhang et al. 2018, LPIPS (arXiv:1801.03924), equation 1 with equal channel weights; notes, C3.
    """
    if not len(features) == len(others) == len(weights):
        counts = f"{len(features)} and {len(others)} feature maps for {len(weights)} weights"
        raise ValueError(f"{counts}: expected one per depth")
    depths = [
        weight * (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
        for a, b, weight in zip(features, others, weights, strict=True)
    ]
    return torch.stack(depths).sum(0)


def _unit(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` divided by its length over channels."""
    return x * (x.square().sum(1, keepdim=True) + EPSILON).rsqrt()


def attribute_mse(pred: Tensor, target: Tensor, groups: Mapping[str, Sequence[int]]) -> Tensor:
    """Sum over groups of the mean squared error within each, large groups weighing no more than small.

    Args:
        pred: ``(B, A)`` a differentiable attribute network's output on the generated image.
        target: ``(B, A)`` the same on the attribute image.
        groups: name to indices in 0..A-1, such as pose, expression and light; an attribute in none is free.

    Returns:
        ``(B,)`` in [0, inf), in squared units of the (standardised) attributes.

    Source: notes, loss C1.
    """
    errors = (pred - target).square()
    return torch.stack([errors[:, list(index)].mean(1) for index in groups.values()]).sum(0)
