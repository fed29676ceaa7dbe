"""Which public photo goes with which private class? The victim says (as in PLG-MI, Yuan et al. 2023)."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.models.answers import answers
from latentprint.types import Access
from latentprint.victim import Victim


class Opinions:
    """What the victim says of every public photo: asked once, when it is first wanted.

    Answers of a victim whose code is known are kept, see `Victim.known`; its queries are counted all the same.

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
        victim = self.victim
        before, known = victim.queries.forward, victim.known
        question = f"{victim.access.value} {victim.answers} {victim.n_classes}"
        found = answers(known, self._ask, self.public.images, question=question, name=victim.name, batch=self.batch)
        if known is not None:
            victim.queries.forward = before + len(self.public)  # also where an earlier run kept the answer
        log_confidence = found[:, : victim.n_classes].clamp_min(1e-30).log()
        return log_confidence, found[:, victim.n_classes :] if victim.access is Access.WHITE_BOX else log_confidence

    def _ask(self, photos: Tensor) -> Tensor:
        """Probabilities ``(B, C)``, and in the white box features ``(B, D)`` beside them."""
        x = (photos.float() / 255).to(self.victim.device)
        if self.victim.access is not Access.WHITE_BOX:
            return self.victim.confidence(x).float()
        logits, features = self.victim.logits_and_features(x)
        return torch.cat([logits.float().softmax(1), features.float()], 1)


def top_pairs(scores: Tensor, n: int) -> Tensor:
    """For every class the ``n`` photos with the highest score, best first: ``(C, n)`` from ``(N, C)``."""
    return scores.topk(min(n, len(scores)), dim=0).indices.T


def random_pairs(n_photos: int, n_classes: int, n: int, seed: int) -> Tensor:
    """``n`` photos for every class at random, ``(C, n)``: the ablation that pulls every label to the mean face."""
    return torch.randint(n_photos, (n_classes, n), generator=generator(seed, "random-pairs"))


def pseudo_embeddings(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Unit mean of the paired photos' teacher embeddings, ``(C, D)`` from ``(N, D)`` and ``(C, n)``."""
    return F.normalize(embeddings[pairs].mean(1), dim=1)
