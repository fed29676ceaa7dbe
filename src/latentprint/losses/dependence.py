"""How much two views of the same samples depend on each other: HSIC and distance correlation.

The Hilbert-Schmidt independence criterion is the squared distance, in a space that Gaussian kernels span, between the
joint distribution of ``(x, y)`` and the product of its margins: 0 if and only if they are independent. Distance
correlation is its kin with Euclidean distances for kernels. Both are numbers of a *batch*, not of a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(x: Tensor) -> Tensor:
    """``||x_i - x_j||^2`` of the rows of ``(B, ...)``, flattened: ``(B, B)``, at least 0, and 0 on the diagonal."""
    rows = x.flatten(1)
    rows = rows - rows.mean(0)  # distances stay, and float32 loses less in the difference below
    squares = rows.square().sum(1)
    apart = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp_min(0)
    return apart * (1 - torch.eye(len(apart), device=x.device, dtype=apart.dtype))  # rounding depends on the machine


def gaussian_gram(x: Tensor, bandwidth: float | None = None) -> Tensor:
    """``exp(-||x_i - x_j||^2 / (2 bandwidth^2))`` for all pairs of samples.

    Args:
        x: ``(B, ...)`` with B at least 2.
        bandwidth: in the units of ``x``, above 0; by default the median distance between two of the samples, through
            which no gradient flows.

    Returns:
        ``(B, B)`` in [0, 1].
    """
    distances = squared_distances(x)
    return torch.exp(-distances / (2 * _median(distances) if bandwidth is None else 2 * bandwidth**2))


def hsic(x: Tensor, y: Tensor, *, bandwidth_x: float | None = None, bandwidth_y: float | None = None) -> Tensor:
    """The biased estimate ``(B - 1)^-2 tr(K H L H)``, H the centring matrix: a scalar, at least 0.

    Args:
        x, y: ``(B, ...)`` of the same B samples, at least 2. bandwidth_x, bandwidth_y: see `gaussian_gram`.

    Source: Gretton et al. 2005, Measuring Statistical Dependence with Hilbert-Schmidt Norms, definition 2.
    """
    return _product(_centred(gaussian_gram(x, bandwidth_x)), _centred(gaussian_gram(y, bandwidth_y)))


def normalised_hsic(x: Tensor, y: Tensor, *, bandwidth_x: float | None = None,
                    bandwidth_y: float | None = None) -> Tensor:
    """``HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))``: a scalar in [0, 1], 1 for two copies, 0 where one is constant.

    Unlike HSIC it has the same scale for layers of any width. It is the centred kernel alignment of Cortes et al.
    2012 (arXiv:1203.0550). On few samples it stays well above 0 even for independent ones.
    """
    gram_x, gram_y = _centred(gaussian_gram(x, bandwidth_x)), _centred(gaussian_gram(y, bandwidth_y))
    scale = _product(gram_x, gram_x) * _product(gram_y, gram_y)
    return _product(gram_x, gram_y) / scale.clamp_min(1e-12).sqrt()  # a dead layer has rounding errors only


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """``dCov(x, y) / sqrt(dVar(x) dVar(y))`` of ``(B, ...)`` and ``(B, ...)``: a scalar in [0, 1].

    0 for a large sample exactly where they are independent, 1 for a scaled and rotated copy; on few samples it stays
    well above 0. Euclidean distances, both double-centred (Szekely et al. 2007, Measuring and Testing Dependence by
    Correlation of Distances, definitions 4 and 5), with a floor under each root for its gradient to stay finite.
    """
    a, b = (_centred((squared_distances(v) + 1e-7).sqrt()) for v in (x, y))
    covariance, own_x, own_y = ((p * q).mean().clamp_min(0) + 1e-7 for p, q in ((a, b), (a, a), (b, b)))
    return covariance.sqrt() / (own_x * own_y).sqrt().sqrt()


def _median(distances: Tensor) -> Tensor:
    """The median of the squared distances of distinct samples; above 0 also when most samples are equal."""
    n = len(distances)
    pairs = distances.detach()[~torch.eye(n, dtype=torch.bool, device=distances.device)]
    return pairs.median().clamp_min(1e-6)


def _centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _product(gram_x: Tensor, gram_y: Tensor) -> Tensor:
    return (gram_x * gram_y).sum() / (len(gram_x) - 1) ** 2
