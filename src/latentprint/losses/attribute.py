"""A face swap keeps the attribute image's pose, expression and light, not its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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
