"""k-means and diagonal Gaussian mixtures of all classes at once: pure functions over ``(C, M, D)`` features.

Loops go over iterations and, for the first centres, over the K of them; never over classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from latentprint.surrogates.bank import ByClass


class Clusters(NamedTuple):
    """What k-means leaves: ``centroids`` ``(C, K, D)``; ``variance`` ``(C, K)``, mean squared distance per dimension
    of a cluster's members from its centroid; ``weight`` ``(C, K)``, share of the class, 0 for an empty cluster."""

    centroids: Tensor
    variance: Tensor
    weight: Tensor


class Mixture(NamedTuple):
    """Gaussians with diagonal covariance: ``weight`` ``(C, K)``, ``mean`` and ``variance`` ``(C, K, D)``."""

    weight: Tensor
    mean: Tensor
    variance: Tensor


def first_centroids(data: ByClass, k: int, uniform: Tensor) -> Tensor:
    """K members of each class, each drawn with a chance that grows with its distance from those drawn before.

    With the distance itself, not its square as in k-means++ (Arthur and Vassilvitskii 2007): the published start.

    Args:
        uniform: ``(K, C)`` random numbers in [0, 1).
    """
    chance = data.there.float()
    picked: list[Tensor] = []
    nearest = torch.full_like(chance, math.inf)
    for u in uniform:
        cumulative = chance.cumsum(1)
        at = torch.searchsorted(cumulative, (u[:, None] * cumulative[:, -1:]), right=True)
        centre = _take(data.features, at.clamp_max(chance.shape[1] - 1))
        picked.append(centre)
        nearest = torch.minimum(nearest, torch.cdist(data.features, centre).squeeze(2))
        spread = nearest * data.there
        chance = torch.where(spread.sum(1, keepdim=True) > 0, spread, data.there.float())
    return torch.cat(picked, 1)


def kmeans(data: ByClass, start: Tensor, iterations: int = 50) -> Clusters:
    """Lloyd's algorithm from centroids ``(C, K, D)``, until no class changes its assignment.

    An empty cluster keeps its centroid.
    """
    shift = _mean(data)  # distances between close points far from the origin would lose their digits
    x = (data.features - shift) * data.there[..., None]
    centroids = start - shift
    before = None
    for _ in range(iterations):
        nearest = _to_centroids(x, centroids).argmin(2)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        member = _one_hot(nearest, centroids.shape[1], data.there).to(x)
        count = member.sum(1)[..., None]
        centroids = torch.where(count > 0, member.mT @ x / count.clamp_min(1), centroids)
    return _describe(x, centroids, data.there, shift)


def _describe(x: Tensor, centroids: Tensor, there: Tensor, shift: Tensor) -> Clusters:
    squares, nearest = (_to_centroids(x, centroids) + x.square().sum(2, keepdim=True)).clamp_min(0).min(2)
    member = _one_hot(nearest, centroids.shape[1], there).to(x)
    count = member.sum(1)
    variance = (member * squares[..., None]).sum(1) / (count.clamp_min(1) * x.shape[2])
    return Clusters(centroids + shift, variance, count / there.sum(1, keepdim=True).clamp_min(1))


def fit_mixture(data: ByClass, start: Mixture, iterations: int = 100, tolerance: float = 1e-3,
                floor: float = 1e-6) -> Mixture:
    """Expectation-maximisation, each class until its mean log-likelihood gains less than ``tolerance``.

    Args:
        floor: added to variances, in squared units of the features.

    The steps and the stop are those of scikit-learn's ``GaussianMixture(covariance_type="diag")``.
    """
    shift = _mean(data)
    x, mixture = (data.features - shift) * data.there[..., None], start._replace(mean=start.mean - shift)
    active = data.there.any(1)
    before = torch.full(active.shape, -math.inf, dtype=x.dtype, device=x.device)
    for _ in range(iterations):
        joint = log_joint(x, mixture)
        log_likelihood = joint.logsumexp(2)
        fresh = maximise(x, (joint - log_likelihood[..., None]).exp() * data.there[..., None], floor)
        mixture = Mixture(*(_where(active, new, old) for new, old in zip(fresh, mixture, strict=True)))
        bound = (log_likelihood * data.there).sum(1) / data.there.sum(1).clamp_min(1)
        active = active & ((bound - before).abs() >= tolerance)
        before = bound
        if not active.any():
            break
    return mixture._replace(mean=mixture.mean + shift)


def maximise(x: Tensor, responsibility: Tensor, floor: float) -> Mixture:
    """The M step on ``(C, M, D)`` with responsibilities ``(C, M, K)``, 0 for what is not there."""
    mass = responsibility.sum(1) + 10 * torch.finfo(x.dtype).eps
    mean = responsibility.mT @ x / mass[..., None]
    variance = (responsibility.mT @ x.square() / mass[..., None] - mean.square()).clamp_min(0) + floor
    return Mixture(mass / mass.sum(1, keepdim=True), mean, variance)


def log_joint(x: Tensor, mixture: Mixture) -> Tensor:
    """``log pi_k + log N(x; mean_k, diag variance_k)`` of ``(C, M, D)``: ``(C, M, K)``."""
    precision = 1 / mixture.variance
    scaled = mixture.mean * precision
    squares = x.square() @ precision.mT - 2 * x @ scaled.mT + (mixture.mean * scaled).sum(2)[:, None]
    normaliser = mixture.variance.log().sum(2) + x.shape[2] * math.log(2 * math.pi)
    return mixture.weight.clamp_min(torch.finfo(x.dtype).tiny).log()[:, None] - (squares + normaliser[:, None]) / 2


def mixture_of(data: ByClass, clusters: Clusters, floor: float = 1e-6) -> Mixture:
    """The mixture that clusters make, each member belonging to one component: where EM starts."""
    shift = _mean(data)
    x = (data.features - shift) * data.there[..., None]
    nearest = _to_centroids(x, clusters.centroids - shift).argmin(2)
    mixture = maximise(x, _one_hot(nearest, clusters.weight.shape[1], data.there).to(x), floor)
    return mixture._replace(mean=mixture.mean + shift)


def _to_centroids(x: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances less ``|x|^2``, ``(C, M, K)``."""
    return centroids.square().sum(2)[:, None] - 2 * x @ centroids.mT


def _one_hot(nearest: Tensor, k: int, there: Tensor) -> Tensor:
    return ((nearest[..., None] == torch.arange(k, device=nearest.device)) & there[..., None])


def _mean(data: ByClass) -> Tensor:
    """Of each class, ``(C, 1, D)``."""
    return data.features.sum(1, keepdim=True) / data.there.sum(1).clamp_min(1)[:, None, None]


def _take(features: Tensor, at: Tensor) -> Tensor:
    return features.gather(1, at[..., None].expand(-1, -1, features.shape[2]))


def _where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, old)
