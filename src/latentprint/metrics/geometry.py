"""The shape of a cloud of embeddings: how long, how redundant, how clustered, how many directions it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.metrics.features import between_class_variance


@dataclass(frozen=True)
class Geometry:
    """Numbers of ``(N, D)`` embeddings with labels.

    Attributes:
        mean_norm: mean L2 norm.
        mean_abs_correlation: mean absolute correlation of two different dimensions, in [0, 1]; NaN below two
            dimensions that vary.
        silhouette: in [-1, 1], by cosine distance; NaN without two classes and a pair in one of them.
        effective_rank: in [1, min(N, D)].
        between_class_variance: see ``metrics.features``; near 0 is collapse.
    """

    mean_norm: float
    mean_abs_correlation: float
    silhouette: float
    effective_rank: float
    between_class_variance: float


def embedding_geometry(embeddings: Tensor, labels: Tensor) -> Geometry:
    """All of it at once, for ``(N, D)`` embeddings and ``(N,)`` int64 labels >= 0."""
    return Geometry(
        mean_norm=float(embeddings.norm(dim=1).mean()),
        mean_abs_correlation=mean_abs_correlation(embeddings),
        silhouette=silhouette(embeddings, labels),
        effective_rank=effective_rank(embeddings),
        between_class_variance=between_class_variance(embeddings, labels, int(labels.max()) + 1),
    )


def mean_abs_correlation(embeddings: Tensor) -> float:
    """Mean absolute correlation over pairs of different dimensions of ``(N, D)``, constant ones left out."""
    values = embeddings.double()
    varying = values[:, values.std(0) > 0]
    dim = varying.shape[1]
    if dim < 2:
        return float("nan")
    return float((torch.corrcoef(varying.T).abs().sum() - dim) / (dim * (dim - 1)))


def effective_rank(embeddings: Tensor) -> float:
    """Exp of the entropy of the singular values of ``(N, D)`` over their sum (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals(embeddings.double())
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def silhouette(embeddings: Tensor, labels: Tensor) -> float:
    """Mean silhouette coefficient (Rousseeuw 1987) by cosine distance of ``(N, D)`` with labels ``(N,)``.

    NaN without two classes, or when no class has two embeddings.
    """
    if not 2 <= len(labels.unique()) < len(labels):
        return float("nan")
    return float(silhouette_score(embeddings.detach().cpu().numpy(), labels.cpu().numpy(), metric="cosine"))


def class_angles(embeddings: Tensor) -> Tensor:
    """Angle in degrees between any two of ``(C, D)`` embeddings: ``(C, C)`` float64 in [0, 180], 0 on the diagonal."""
    unit = normalize(embeddings.double(), dim=1)
    return (unit @ unit.T).clamp(-1, 1).acos().rad2deg().fill_diagonal_(0)


def pair_angles(embeddings: Tensor) -> Tensor:
    """The same for each pair once, ``(C (C - 1) / 2,)``."""
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1, device=embeddings.device)
    return class_angles(embeddings)[first, second]
