"""Distances between two sets of features. The number means nothing without the extractor's name beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frechet:
    """A Frechet distance, or why there is none.

    Attributes:
        value: >= 0, in squared units of the features; None when refused. Biased: compare at equal n only.
        extractor: the network whose features these are. Never call it FID unless that is Inception v3.
        n: images in the smaller set.
        reason: one sentence when refused, else None.
    """

    value: float | None
    extractor: str
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class Prdc:
    """Precision, recall, coverage in [0, 1]; density >= 0, near 1 when both sets share one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(a: Tensor, b: Tensor, extractor: str) -> Frechet:
    """``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)`` of the Gaussians fitted to two sets of features.

    Dowson and Landau 1982; Heusel et al. 2017, equation 6. A, B are sample covariances, as in torch-fidelity.
    The symmetrised product has real eigenvalues >= 0: no root of a non-symmetric matrix, no imaginary part.

    Args:
        a, b: ``(N, D)`` and ``(M, D)``. Refused (no number, but a reason) when min(N, M) < 2 D, where the
            covariances say little, and for features that are not finite.
        extractor: the name to print beside the number.
    """
    n, dim = min(len(a), len(b)), a.shape[1]
    if n < 2 * dim:
        return Frechet(None, extractor, n, f"{n} images are too few for {dim} features, {2 * dim} are needed")
    if not (a.isfinite().all() and b.isfinite().all()):
        return Frechet(None, extractor, n, "the features are not all finite")
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(dim, dim), torch.cov(b.T).reshape(dim, dim)
    root = _symmetric_root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    value = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return Frechet(max(float(value), 0.0), extractor, n)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD, kernel ``(x.y / D + 1)^3``, of features ``(N, D)`` and ``(M, D)``, N, M >= 2.

    KID of Binkowski et al. 2018, over all images instead of random subsets. May be slightly negative.
    """
    a, b = a.double(), b.double()
    within = _off_diagonal_mean(_cubic(a, a)) + _off_diagonal_mean(_cubic(b, b))
    return float(within - 2 * _cubic(a, b).mean())


def prdc(real: Tensor, fake: Tensor, k: int = 5) -> Prdc:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) by k-NN balls.

    Args:
        real: ``(N, D)`` features, N > k.
        fake: ``(M, D)`` features, M > k.

    A point is inside when it lies in *any* ball, not only in that of its nearest neighbour; density divides
    by k times the number of fakes.

    Raises:
        ValueError: a set has no k neighbours.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k={k} needs more than {k} images, got {len(real)} real and {len(fake)} fake")
    real, fake = real.double(), fake.double()
    distance = torch.cdist(real, fake)
    in_real_ball = distance < _ball_radius(real, k)[:, None]
    in_fake_ball = distance < _ball_radius(fake, k)[None, :]
    return Prdc(
        precision=float(in_real_ball.any(0).double().mean()),
        recall=float(in_fake_ball.any(1).double().mean()),
        density=float(in_real_ball.double().sum()) / (k * len(fake)),
        coverage=float(in_real_ball.any(1).double().mean()),
    )


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(square: Tensor) -> Tensor:
    n = len(square)
    return (square.sum() - square.trace()) / (n * (n - 1))


def _ball_radius(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point; the point itself is the nearest of all."""
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values
