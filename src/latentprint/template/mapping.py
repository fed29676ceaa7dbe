"""From one recogniser's embeddings to another's: ridge regression on public faces that both have seen.

A prior that was trained on one recogniser's embeddings can be driven by templates of another, and an adversary without
gradients can carry a template into the space of a recogniser of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn


class Mapping(nn.Module):
    """``normalise(A e + b)``: unit embeddings ``(B, D)`` to unit embeddings ``(B, D')``."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(F.linear(embedding, self.weight, self.bias), dim=1)


def fit_mapping(source: Tensor, target: Tensor) -> Mapping:
    """Least squares, with the penalty that leave-one-out likes best, from ``(N, D)`` to ``(N, D')`` of the same photos.
    """
    ridge = RidgeCV(alphas=[10.0**k for k in range(-3, 3)]).fit(source.double().numpy(), target.double().numpy())
    return Mapping(torch.from_numpy(ridge.coef_).float(), torch.from_numpy(ridge.intercept_).float())
