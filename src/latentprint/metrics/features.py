"""What an evaluator says of each image, and distances and spreads in its feature space or in a recogniser's.

All generated images count, recognised or not.

Two spreads that are easily mixed up have two names here: *diversity* is within a class (do the images of one
person differ?), *between-class variance* is across classes (do different people look different?). When the
latter falls to 0 the generator has *collapsed*: everyone got the same face.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def topk_hits(logits: Tensor, classes: Tensor, k: int) -> Tensor:
    """``(B,)`` bool: is the true class among the k highest logits?

    Args:
        logits: ``(B, C)``.
        classes: ``(B,)`` int64 in 0..C-1.

    Ties and NaN count against the hit: an evaluator that answers the same for every class recognises nobody.
    """
    own = logits.gather(1, classes[:, None])
    not_beaten = (~(logits < own)).sum(1) - 1  # the class itself is never below itself
    return not_beaten < k


def confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """``(B,)`` in [0, 1]: probability of the true class, from logits ``(B, C)`` and int64 ``(B,)``."""
    return logits.softmax(1).gather(1, classes[:, None]).squeeze(1)


def nearest_distance(
    query_feats: Tensor, query_classes: Tensor, gallery_feats: Tensor, gallery_labels: Tensor
) -> Tensor:
    """``(B,)`` L2 distance of each query to the nearest gallery image of its own class, over all queries.

    Args:
        query_feats: ``(B, D)`` features of reconstructions.
        query_classes: ``(B,)`` int64, whom each is meant to show.
        gallery_feats: ``(N, D)`` features of real photos.
        gallery_labels: ``(N,)`` int64, whom each shows.

    Raises:
        ValueError: the gallery has no image of a query's class.
    """
    same = query_classes[:, None] == gallery_labels[None, :]
    alone = query_classes[~same.any(1)].tolist()
    if alone:
        raise ValueError(f"the gallery has no image of class {alone[0]}")
    return torch.cdist(query_feats, gallery_feats).masked_fill(~same, torch.inf).amin(1)


def diversity(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """``(n_classes,)`` mean cosine distance in [0, 2] over the pairs of one class; NaN without a pair.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` int64 in 0..n_classes-1.

    For unit vectors with sum s, the cosines of all n (n - 1) ordered pairs add up to ``|s|^2 - n``.
    """
    sums, counts = _class_sums(normalize(features, dim=1), labels, n_classes)
    pairs = counts * (counts - 1)
    return torch.where(pairs > 0, 1 - (sums.square().sum(1) - counts) / pairs, torch.nan)


def between_class_variance(features: Tensor, labels: Tensor, n_classes: int) -> float:
    """Total variance (summed over dimensions) of the class means around their mean; near 0 is collapse.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` int64 in 0..n_classes-1; classes without an image are left out.

    In [0, 1] for unit vectors, where it is 1 - |mean of the class means|^2 when each class is one vector.
    """
    sums, counts = _class_sums(features, labels, n_classes)
    present = counts > 0
    means = sums[present] / counts[present][:, None]
    return float(means.var(0, correction=0).sum())


def between_class_similarity(features: Tensor, labels: Tensor, n_classes: int) -> float:
    """Mean cosine over the pairs of two classes, in [-1, 1]; NaN without such a pair. Near 1 all show one person.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` int64 in 0..n_classes-1.
    """
    sums, counts = _class_sums(normalize(features, dim=1), labels, n_classes)
    pairs = counts.sum().square() - counts.square().sum()
    total = sums.sum(0).square().sum() - sums.square().sum()
    return float(total / pairs) if pairs else float("nan")


def _class_sums(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Sum ``(n_classes, D)`` and number ``(n_classes,)`` of the float64 features of each class."""
    sums = features.new_zeros(n_classes, features.shape[1], dtype=torch.float64)
    return sums.index_add_(0, labels, features.double()), torch.bincount(labels, minlength=n_classes).double()
