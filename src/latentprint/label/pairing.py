"""Which public photo goes with which private class? The victim says (as in PLG-MI, Yuan et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.types import Access
from latentprint.victim import Victim


@torch.no_grad()
def log_confidence(victim: Victim, public: ImageSet, batch: int = 256) -> Tensor:
    """Log-probabilities of the victim's classes for every public photo, ``(N, C)``.

    Under label-only access a photo says 0 for its class and a constant for all others.
    """
    parts = [victim.confidence(public.floats(index).to(victim.device)).float().cpu()
             for index in torch.arange(len(public)).split(batch)]
    return torch.cat(parts).clamp_min(1e-30).log()


@torch.no_grad()
def public_features(victim: Victim, public: ImageSet, batch: int = 256) -> Tensor:
    """What the victim shows of every public photo, ``(N, D)``: penultimate features, or log-probabilities alone."""
    if victim.access is not Access.WHITE_BOX:
        return log_confidence(victim, public)
    return torch.cat([victim.features(public.floats(index).to(victim.device)).float().cpu()
                      for index in torch.arange(len(public)).split(batch)])


def top_pairs(scores: Tensor, n: int) -> Tensor:
    """For every class the ``n`` photos with the highest score, best first: ``(C, n)`` from ``(N, C)``."""
    return scores.topk(min(n, len(scores)), dim=0).indices.T


def random_pairs(n_photos: int, n_classes: int, n: int, seed: int) -> Tensor:
    """``n`` photos for every class at random, ``(C, n)``: the ablation that pulls every label to the mean face."""
    return torch.randint(n_photos, (n_classes, n), generator=generator(seed, "random-pairs"))


def pseudo_embeddings(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Unit mean of the paired photos' teacher embeddings, ``(C, D)`` from ``(N, D)`` and ``(C, n)``."""
    return F.normalize(embeddings[pairs].mean(1), dim=1)
