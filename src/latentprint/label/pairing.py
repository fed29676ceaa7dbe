"""Which public photo goes with which private class? The victim says (as in PLG-MI, Yuan et al. 2023)."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.progress import tracked
from latentprint.types import Access
from latentprint.victim import Victim


class Opinions:
    """What the victim says of every public photo: asked once, when it is first wanted.

    Attributes:
        log_confidence: ``(N, C)`` log-probabilities of its classes. Under label-only access a photo says 0 for its
            class and a constant for all others.
        features: ``(N, D)`` penultimate features; of a victim that shows no more, the log-probabilities.
    """

    def __init__(self, victim: Victim, public: ImageSet, batch: int = 256) -> None:
        self.victim, self.public, self.batch = victim, public, batch

    @property
    def log_confidence(self) -> Tensor:
        return self._answers[0]

    @property
    def features(self) -> Tensor:
        return self._answers[1]

    @cached_property
    def _answers(self) -> tuple[Tensor, Tensor]:
        answers = [self._ask(self.public.floats(index).to(self.victim.device))
                   for index in tracked(torch.arange(len(self.public)).split(self.batch), "classifying public photos")]
        log_confidence = torch.cat([probabilities for probabilities, _ in answers]).clamp_min(1e-30).log()
        shown = [features for _, features in answers if features is not None]
        return log_confidence, torch.cat(shown) if shown else log_confidence

    @torch.no_grad()
    def _ask(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.victim.access is not Access.WHITE_BOX:
            return self.victim.confidence(x).float().cpu(), None
        logits, features = self.victim.logits_and_features(x)
        return logits.float().softmax(1).cpu(), features.float().cpu()


def top_pairs(scores: Tensor, n: int) -> Tensor:
    """For every class the ``n`` photos with the highest score, best first: ``(C, n)`` from ``(N, C)``."""
    return scores.topk(min(n, len(scores)), dim=0).indices.T


def random_pairs(n_photos: int, n_classes: int, n: int, seed: int) -> Tensor:
    """``n`` photos for every class at random, ``(C, n)``: the ablation that pulls every label to the mean face."""
    return torch.randint(n_photos, (n_classes, n), generator=generator(seed, "random-pairs"))


def pseudo_embeddings(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Unit mean of the paired photos' teacher embeddings, ``(C, D)`` from ``(N, D)`` and ``(C, n)``."""
    return F.normalize(embeddings[pairs].mean(1), dim=1)
