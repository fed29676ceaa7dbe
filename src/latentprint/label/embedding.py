"""What public photos and the victim say of where embeddings lie: centres, spread, manifold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError


class Centres(nn.Module):
    """Where each class's features lie in the victim, learned slowly from the direction in its last layer.

    Args:
        directions: ``(C, D)``. length: mean norm of a photo's centred features, the unit of distances here.
    """

    def __init__(self, directions: Tensor, length: float) -> None:
        super().__init__()
        self.length = length
        self.table = nn.Embedding.from_pretrained(F.normalize(directions, dim=1), freeze=False)


def spread_within(embeddings: Tensor, labels: Tensor) -> float:
    """Variance of the embeddings of one person's photos, summed over dimensions, averaged over the people of whom
    there are several.

    Raises:
        UserError: there is one photo of each.
    """
    people, index, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(people), embeddings.shape[1]).index_add_(0, index, embeddings) / counts[:, None]
    squares = torch.zeros(len(people)).index_add_(0, index, (embeddings - means[index]).square().sum(1))
    several = counts > 1
    if not several.any():
        raise UserError("the loss 'diversity' needs public people with several photos, to know how much photos of one "
                        "person differ; set data.public to such a source")
    return float((squares[several] / (counts[several] - 1)).mean())


class Manifold:
    """The shape of public embeddings: their mean and principal axes, and how far off a vector is.

    Naive search leaves the manifold of embeddings and makes things worse; this says how far it went.

    Args:
        embeddings: ``(N, D)`` of public photos.
        axes: principal axes kept.
    """

    def __init__(self, embeddings: Tensor, axes: int = 64) -> None:
        # Axes from one half, what is typical from the other: in-sample residuals are far too small.
        fitted, held = embeddings[::2], embeddings[1::2]
        self.mean = fitted.mean(0)
        _, _, vectors = torch.linalg.svd(fitted - self.mean, full_matrices=False)
        self.axes = vectors[: min(axes, max(1, len(fitted) // 4))]
        centred = held - self.mean
        inside = centred @ self.axes.T
        self.std = inside.square().mean(0).sqrt().clamp_min(1e-6)
        self.rest = (centred - inside @ self.axes).square().sum(1).mean().clamp_min(1e-8)

    def excess(self, embedding: Tensor) -> Tensor:
        """How much less typical than a public photo, ``(B,)`` >= 0: a hinge on the Mahalanobis distance per axis
        inside the principal axes, and on the squared residual outside them, each 1 for a typical photo."""
        centred = embedding - self.mean.to(embedding)
        inside = centred @ self.axes.to(embedding).T
        outside = centred - inside @ self.axes.to(embedding)
        typical = (inside / self.std.to(embedding)).square().mean(1)
        return F.relu(typical - 1) + F.relu(outside.square().sum(1) / self.rest.to(embedding) - 1)
